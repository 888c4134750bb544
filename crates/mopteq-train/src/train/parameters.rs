//! Passes over all parameters: global gradient norm, clipping, weighting, moving average.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::prelude::*;

use crate::classifier::Classifier;

/// Multiplies all gradients by a factor.
pub(super) fn scale(model: &Classifier, grads: GradientsParams, factor: f64) -> GradientsParams {
    struct Scale(GradientsParams, f64);
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, grad * self.1);
            }
        }
    }
    let mut visitor = Scale(grads, factor);
    model.visit(&mut visitor);
    visitor.0
}

/// The gradients with the penalty of kernels and matrices, the parameters of two dimensions or more.
pub(super) fn decay(model: &Classifier, grads: GradientsParams, penalty: f64) -> GradientsParams {
    struct Decay(GradientsParams, f64);
    impl ModuleVisitor for Decay {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D < 2 {
                return;
            }
            if let Some(grad) = self.0.remove::<D>(param.id) {
                let weight = param.val().without_autodiff();
                self.0.register(param.id, grad + weight * self.1);
            }
        }
    }
    let mut visitor = Decay(grads, penalty);
    model.visit(&mut visitor);
    visitor.0
}

/// Gradients whose Euclidean norm, all together, is at most `largest`, and the norm before, `[1]`.
/// The norm stays on the device.
///
/// Burn's own clipping by the norm clips each tensor separately, which changes the direction of
/// the step. This clipping does not.
pub(super) fn clip(
    model: &Classifier,
    grads: GradientsParams,
    largest: f64,
) -> (GradientsParams, Option<Tensor<1>>) {
    struct Clip(GradientsParams, Tensor<1>);
    impl ModuleVisitor for Clip {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.0.remove::<D>(param.id) {
                let factor = self.1.clone().cast(grad.dtype()).reshape([1; D]);
                self.0.register(param.id, grad * factor);
            }
        }
    }
    let Some(norm) = norm(model, &grads) else {
        return (grads, None);
    };
    let factor = (norm.clone().recip() * largest).clamp_max(1.0);
    let mut visitor = Clip(grads, factor);
    model.visit(&mut visitor);
    (visitor.0, Some(norm))
}

/// Euclidean norm of all gradients together, `[1]`; `None` without gradients.
fn norm(model: &Classifier, grads: &GradientsParams) -> Option<Tensor<1>> {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        sums: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.sums.push((grad.clone() * grad).sum());
            }
        }
    }
    let mut visitor = Squares {
        grads,
        sums: Vec::new(),
    };
    model.visit(&mut visitor);
    let any = !visitor.sums.is_empty();
    any.then(|| Tensor::cat(visitor.sums, 0).sum().sqrt())
}

/// The running statistics of a model on one device, and its singular vectors.
pub(super) struct Buffers(HashMap<ParamId, Box<dyn Any + Send>>);

impl ModuleVisitor for Buffers {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            let value = param.val().without_autodiff();
            self.0.insert(param.id, Box::new(value));
        }
    }
}

impl Buffers {
    /// Those of a model on a device with autodiff.
    pub(super) fn of(model: &Classifier) -> Self {
        // Brings them up to date: they lag one step behind.
        drop(model.valid());
        let mut buffers = Self(HashMap::new());
        model.visit(&mut buffers);
        buffers
    }

    /// Gives a model the means of those of its copies on other devices, by these weights. All are
    /// moved to the model's device.
    pub(super) fn set_means(model: &Classifier, device: &Device, copies: Vec<(Self, f64)>) {
        struct Means<'a>(&'a Device, Vec<(Buffers, f64)>);
        impl ModuleMapper for Means<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let total: f64 = self.1.iter().map(|(_, weight)| weight).sum();
                let parts = self.1.iter_mut().filter_map(|(buffers, weight)| {
                    let value = buffers.0.remove(&param.id)?.downcast::<Tensor<D>>().ok()?;
                    Some(value.to_device(self.0) * (*weight / total))
                });
                match parts.reduce(|sum, part| sum + part) {
                    Some(mean) => param.map(|_| Tensor::from_inner(mean)),
                    None => param,
                }
            }
        }
        let plain = device.clone().without_autodiff();
        // Clones share their buffers, so this sets those of the model.
        drop(model.clone().map(&mut Means(&plain, copies)));
    }
}

/// Whether all parameters and running statistics are finite numbers.
pub(super) fn are_finite(model: &Classifier) -> bool {
    #[derive(Default)]
    struct Differences(Vec<Tensor<1>>);
    impl ModuleVisitor for Differences {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let value = param.val().without_autodiff();
            // Zero for a finite number, and NaN for anything else.
            self.0.push((value.clone() - value).sum());
        }
    }
    let mut visitor = Differences::default();
    model.visit(&mut visitor);
    if visitor.0.is_empty() {
        return true;
    }
    // One read-back for all.
    let sums = Tensor::cat(visitor.0, 0).try_into_vec_as::<f64>();
    sums.is_ok_and(|sums| sums.iter().all(|sum| *sum == 0.0))
}

/// The exponential moving average of a model. Trained parameters are averaged, and so are the running
/// statistics of batch norms, because those of the last step alone do not fit averaged weights. Other
/// buffers are those of the last step.
pub(super) fn average(ema: Classifier, model: &Classifier, decay: f64) -> Classifier {
    #[derive(Default)]
    struct Collect {
        current: HashMap<ParamId, (Box<dyn Any>, bool)>,
        /// Name of the field that is visited.
        field: String,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _container: &str) {
            name.clone_into(&mut self.field);
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let statistic = ["running_mean", "running_var"].contains(&self.field.as_str());
            let averaged = param.is_require_grad() || statistic;
            let value: Box<dyn Any> = Box::new(param.val().without_autodiff());
            self.current.insert(param.id, (value, averaged));
        }
    }
    struct Average {
        current: HashMap<ParamId, (Box<dyn Any>, bool)>,
        decay: f64,
    }
    impl ModuleMapper for Average {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let current = self.current.remove(&param.id);
            let Some((Ok(current), averaged)) =
                current.map(|(value, averaged)| (value.downcast::<Tensor<D>>(), averaged))
            else {
                return param;
            };
            let decay = self.decay;
            param.map(|average| {
                if averaged {
                    average * decay + *current * (1.0 - decay)
                } else {
                    *current
                }
            })
        }
    }
    let mut collect = Collect::default();
    model.visit(&mut collect);
    ema.map(&mut Average {
        current: collect.current,
        decay,
    })
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::config::TrainConfig;

    fn batch(device: &Device) -> crate::data::Batch {
        crate::data::Batch {
            images: Tensor::ones([2, 1, 28, 28], device),
            targets: Tensor::zeros([2], device),
        }
    }

    #[test]
    fn one_value_that_is_no_number_is_found() {
        struct Spoil(usize);
        impl ModuleMapper for Spoil {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                self.0 = self.0.wrapping_sub(1);
                match self.0 {
                    0 => param.map(|t| {
                        let first: Vec<_> = vec![0..1; D];
                        let first: [_; D] = first.try_into().unwrap();
                        let spoilt = Tensor::full([1; D], f32::INFINITY, &t.device());
                        t.without_autodiff().slice_assign(first, spoilt)
                    }),
                    _ => param,
                }
            }
        }
        let model = Classifier::new(&TrainConfig::digits(), &Device::flex())
            .unwrap()
            .materialised();
        assert!(are_finite(&model));
        for number in 1..4 {
            assert!(
                !are_finite(&model.clone().map(&mut Spoil(number))),
                "{number}"
            );
        }
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_and_scales_with_them() {
        let device = Device::flex().autodiff();
        let model = Classifier::new(&TrainConfig::digits(), &device)
            .unwrap()
            .materialised();
        let grads = model.step(batch(&device)).gradients;
        struct All<'a>(&'a GradientsParams, f64);
        impl ModuleVisitor for All<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = self.0.get::<D>(param.id) {
                    let values: Vec<f64> = grad.try_into_vec_as().unwrap();
                    self.1 += values.iter().map(|v| v * v).sum::<f64>();
                }
            }
        }
        let mut all = All(&grads, 0.0);
        model.visit(&mut all);
        let expected = all.1.sqrt();
        let value = |grads: &GradientsParams| {
            let norm = norm(&model, grads).unwrap();
            norm.try_into_scalar::<f64>().unwrap()
        };
        assert!(expected > 0.0 && (value(&grads) / expected - 1.0).abs() < 1e-5);
        let scaled = scale(&model, grads, 0.25);
        assert!((value(&scaled) / (0.25 * expected) - 1.0).abs() < 1e-5);
        // A norm below the limit stays; one above becomes the limit.
        let (same, before) = clip(&model, scaled, expected);
        let before: f64 = before.unwrap().try_into_scalar().unwrap();
        assert!((before / (0.25 * expected) - 1.0).abs() < 1e-5);
        assert!((value(&same) / before - 1.0).abs() < 1e-7);
        let (clipped, _) = clip(&model, same, 0.1 * expected);
        assert!((value(&clipped) / (0.1 * expected) - 1.0).abs() < 1e-5);
    }

    #[test]
    fn the_average_moves_towards_the_model_by_its_share() {
        let device = Device::flex().autodiff();
        let model = Classifier::new(&TrainConfig::digits(), &device)
            .unwrap()
            .materialised();
        struct Fill(f64);
        impl ModuleMapper for Fill {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let value = self.0;
                param.map(|tensor| {
                    let tracked = tensor.is_require_grad();
                    let filled = tensor.detach() * 0.0 + value;
                    filled.detach().set_require_grad(tracked)
                })
            }
        }
        // Clones share running statistics until `valid` copies them.
        let zeros = model.clone().map(&mut Fill(0.0)).valid();
        let ones = model.map(&mut Fill(1.0));
        let average = average(zeros, &ones, 0.75);
        struct Values {
            averaged: HashMap<ParamId, bool>,
            field: String,
            means: Vec<(String, bool, f64)>,
        }
        impl ModuleVisitor for Values {
            fn enter_module(&mut self, name: &str, _container: &str) {
                name.clone_into(&mut self.field);
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let mean = param.val().mean().try_into_scalar::<f64>().unwrap();
                let trained = self.averaged.get(&param.id).copied().unwrap_or_default();
                let averaged = trained || self.field.starts_with("running");
                self.means.push((self.field.clone(), averaged, mean));
            }
        }
        struct Trained(HashMap<ParamId, bool>);
        impl ModuleVisitor for Trained {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                self.0.insert(param.id, param.is_require_grad());
            }
        }
        let mut trained = Trained(HashMap::new());
        ones.visit(&mut trained);
        let mut values = Values {
            averaged: trained.0,
            field: String::new(),
            means: Vec::new(),
        };
        average.visit(&mut values);
        let statistic = |(field, ..): &(String, bool, f64)| field.starts_with("running");
        assert!(values.means.iter().any(statistic));
        assert!(values.means.iter().any(|(_, averaged, _)| !averaged));
        for (field, averaged, mean) in values.means {
            let expected = if averaged { 0.25 } else { 1.0 };
            assert!((mean - expected).abs() < 1e-6, "{field}: {mean}");
        }
    }
}
