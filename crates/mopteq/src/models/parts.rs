//! Parts of several models: stem, head, counting.

mod lipschitz;

use burn::config::Config;
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::serde::{Deserialize, Serialize};
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Int, Tensor};
use deq_kernels::{convolution, mean_pool, norm_relu};

use crate::context::{Branches, map_branches};
use crate::error::ConfigError;
use crate::graph::{Builder, Graph, Value};
use crate::models::whitening::whiten;

pub(crate) use lipschitz::{block, convolution_bound, injections_bound, norm_scale};

/// Convolution, batch norm, ReLU: `[batch, in, height, width] -> [batch, out, h, w]`.
#[derive(Module, Debug)]
pub(crate) struct Stem {
    pub(crate) conv: Conv2d,
    pub(crate) norm: BatchNorm,
}

/// Configuration of a stem: one convolution, batch norm, ReLU.
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub struct StemConfig {
    /// Side of the kernel in pixels. Default: 3
    #[config(default = 3)]
    pub kernel: usize,
    /// Stride. Default: 1
    #[config(default = 1)]
    pub stride: usize,
    /// Zero padding in pixels. Default: 1
    #[config(default = 1)]
    pub padding: usize,
}

impl StemConfig {
    /// Checks every field for pictures of this height and width.
    pub(crate) fn validate(&self, input: [usize; 2]) -> Result<(), ConfigError> {
        ConfigError::counts(&[
            ("input_size", input[0].min(input[1])),
            ("stem.kernel", self.kernel),
            ("stem.stride", self.stride),
        ])?;
        let padded = input[0].min(input[1]) + 2 * self.padding;
        ConfigError::range(
            "input_size",
            padded as f64,
            padded >= self.kernel,
            "at least the size of the stem's kernel, padding included",
        )
    }

    /// Height and width of the stem's output.
    pub(crate) fn output(&self, input: [usize; 2]) -> [usize; 2] {
        input.map(|n| {
            let room = (n + 2 * self.padding).saturating_sub(self.kernel);
            room / self.stride.max(1) + 1
        })
    }

    pub(crate) fn init(&self, [from, to]: [usize; 2], device: &Device) -> Stem {
        let p = self.padding;
        Stem {
            conv: Conv2dConfig::new([from, to], [self.kernel, self.kernel])
                .with_stride([self.stride, self.stride])
                .with_padding(PaddingConfig2d::Explicit(p, p, p, p))
                .with_bias(false)
                .init(device),
            norm: BatchNormConfig::new(to).init(device),
        }
    }
}

impl Stem {
    /// The stem with the principal axes of the patches of plain pictures as its kernel.
    pub(crate) fn whitened(mut self, images: &Tensor<4>) -> Self {
        self.conv.weight = whiten(self.conv.weight, images);
        self
    }

    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        norm_relu(&self.norm, convolution::forward(&self.conv, images))
    }

    pub(crate) fn operations(&self, graph: &mut Builder, images: Value) -> Value {
        let x = self.without_relu(graph, images);
        graph.relu(x)
    }

    /// Convolution and batch norm only.
    pub(crate) fn without_relu(&self, graph: &mut Builder, images: Value) -> Value {
        let x = graph.module_convolution(images, &self.conv);
        graph.batch_norm(x, &self.norm)
    }
}

/// A 3 x 3 convolution with bias that keeps the resolution.
pub(crate) fn same_convolution([from, to]: [usize; 2], device: &Device) -> Conv2d {
    Conv2dConfig::new([from, to], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// How branches become one feature vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Fusion {
    /// Every branch is normalised and pooled; the pools are concatenated. The default.
    #[default]
    Pools,
    /// The branches are averaged at the finest resolution after nearest up-sampling, as in GEQ
    /// (NeurIPS 2023, "averaged the output of each branch"), then normalised and pooled.
    Average,
}

/// Configuration of a head: the branches' pools, batch norm, a linear layer.
#[derive(Config, Copy, Debug, PartialEq, Eq)]
pub struct HeadConfig {
    /// How branches become one feature vector. Default: concatenated pools
    #[config(default = "Default::default()")]
    pub fusion: Fusion,
    /// Every branch is pooled to this many cells per side before the classifier. Default: 4
    #[config(default = 4)]
    pub grid: usize,
    /// Classes of a second, dense head for every pixel of the finest branch; 0 for none. Default: 0
    #[config(default = 0)]
    pub dense_classes: usize,
}

/// Class scores of an equilibrium and, for dense heads, of each pixel of the finest branch.
#[derive(Module, Debug)]
pub(crate) struct Head {
    norms: Vec<BatchNorm>,
    linear: Linear,
    dense: Option<Conv2d>,
    #[module(skip)]
    fusion: Fusion,
    grid: usize,
}

impl HeadConfig {
    /// Creates a head with `[channels, classes]` for branches of these resolutions, the finest
    /// first.
    pub(crate) fn init(
        &self,
        [channels, classes]: [usize; 2],
        sizes: &[[usize; 2]],
        device: &Device,
    ) -> Head {
        let fused = match self.fusion {
            Fusion::Pools => sizes,
            Fusion::Average => &sizes[..1],
        };
        let cells = |[h, w]: &[usize; 2]| self.grid.min(*h) * self.grid.min(*w);
        let features = channels * fused.iter().map(cells).sum::<usize>();
        let norm = |_: &[usize; 2]| BatchNormConfig::new(channels).init(device);
        Head {
            norms: fused.iter().map(norm).collect(),
            linear: LinearConfig::new(features, classes).init(device),
            dense: (self.dense_classes > 0)
                .then(|| Conv2dConfig::new([channels, self.dense_classes], [1, 1]).init(device)),
            fusion: self.fusion,
            grid: self.grid,
        }
    }
}

impl Head {
    /// Class scores `[batch, classes]`.
    pub(crate) fn classify(&self, state: &Branches) -> Tensor<2> {
        let fused = match self.fusion {
            Fusion::Pools => state.clone(),
            Fusion::Average => vec![average(state)],
        };
        let pools = fused.into_iter().zip(&self.norms).map(|(z, norm)| {
            let [_, _, height, width] = z.dims();
            let pooled = mean_pool(z, [self.grid.min(height), self.grid.min(width)]);
            norm.forward(pooled).flatten::<2>(1, 3)
        });
        self.linear.forward(Tensor::cat(pools.collect(), 1))
    }

    /// Class scores of every pixel of the finest branch, `[batch, dense classes, h, w]`.
    pub(crate) fn dense(&self, state: &Branches) -> Option<Tensor<4>> {
        self.dense.as_ref().map(|d| d.forward(state[0].clone()))
    }

    /// The finished graph of a network with these states.
    pub(crate) fn finish(&self, mut graph: Builder, state: &[Value]) -> Graph {
        let dense = self
            .dense
            .as_ref()
            .map(|conv| graph.module_convolution(state[0], conv));
        let fused = match self.fusion {
            Fusion::Pools => state.to_vec(),
            Fusion::Average => {
                let [_, height, width] = graph.picture(state[0]);
                let share = 1.0 / state.len() as f64;
                let up = |z: &Value| {
                    let [_, h, w] = graph.picture(*z);
                    (share, graph.upsample(*z, [height / h, width / w]))
                };
                let sum: Vec<_> = state.iter().map(up).collect();
                vec![graph.combine(&sum)]
            }
        };
        let pools = fused.into_iter().zip(&self.norms).map(|(z, norm)| {
            let [_, height, width] = graph.picture(z);
            let pooled = graph.mean_pool(z, [self.grid.min(height), self.grid.min(width)]);
            graph.batch_norm(pooled, norm)
        });
        let pools = pools.collect();
        let logits = graph.classify(pools, &self.linear);
        graph.finish(logits, dense)
    }

    /// The gradient of the cross entropy with respect to a plain state. Without labels, it uses the
    /// most likely class.
    pub(crate) fn ascent(&self, state: &Branches, labels: Option<Tensor<1, Int>>) -> Branches {
        let leaves = map_branches(state, |z| z.autodiff().require_grad());
        let logits = self.valid().classify(&leaves);
        let labels = match labels {
            Some(labels) => labels.without_autodiff(),
            None => logits.clone().without_autodiff().argmax(1).squeeze_dim(1),
        };
        let labels = labels.autodiff();
        let loss = CrossEntropyLossConfig::new()
            .init(&logits.device())
            .forward(logits, labels);
        let mut gradients = loss.backward();
        leaves
            .iter()
            .zip(state)
            .map(|(z, plain)| {
                let gradient = z.grad_remove(&mut gradients);
                gradient.unwrap_or_else(|| plain.zeros_like())
            })
            .collect()
    }
}

/// The mean of the branches at the resolution of the first.
fn average(state: &Branches) -> Tensor<4> {
    let [_, _, height, width] = state[0].dims();
    let up = |z: &Tensor<4>| {
        let [_, _, h, w] = z.dims();
        if [h, w] == [height, width] {
            return z.clone();
        }
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
        interpolate(z.clone(), nearest.with_output_size([height, width]))
    };
    let sum = state.iter().map(up).reduce(|a, b| a + b);
    sum.expect("a state has at least one branch") / state.len() as f64
}

/// Number of trainable parameters: all floats of a module except its buffers, which are running
/// statistics and singular vectors. Initialises nothing.
pub(crate) fn trainable<M: Module>(module: &M) -> usize {
    struct Count {
        buffer: bool,
        total: usize,
    }
    impl ModuleVisitor for Count {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.buffer {
                self.total += param.lazy_shape().num_elements();
            }
        }

        fn enter_module(&mut self, name: &str, _container: &str) {
            self.buffer = matches!(name, "running_mean" | "running_var" | "direction");
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.buffer = false;
        }
    }
    let mut count = Count {
        buffer: false,
        total: 0,
    };
    module.visit(&mut count);
    count.total
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn outputs_of_a_whitened_stem_are_uncorrelated() {
        let device = Device::flex();
        device.seed(5);
        // Neighbours are alike, and so are the two channels.
        let noise = Tensor::<4>::random([8, 1, 14, 14], Distribution::Normal(0.0, 1.0), &device);
        let smooth = burn::tensor::module::avg_pool2d(
            noise,
            burn::tensor::ops::AvgPoolOptions::new([3, 3]).with_stride([1, 1]),
        );
        let own = Tensor::random([8, 1, 12, 12], Distribution::Normal(0.0, 0.1), &device);
        let images = Tensor::cat(vec![smooth.clone(), smooth + own], 1);
        let shape = StemConfig {
            kernel: 3,
            stride: 1,
            padding: 0,
        };
        let stem = shape.init([2, 40], &device);
        let random = stem.conv.weight.val();
        let stem = stem.whitened(&images);
        let kernel = stem.conv.weight.val();
        // There are 18 axes, so the last four channels keep their initial values.
        let tail = |t: Tensor<4>| t.narrow(0, 36, 4);
        tail(kernel.clone())
            .into_data()
            .assert_eq(&tail(random).into_data(), true);
        let y = stem.conv.forward(images);
        let [batch, _, height, width] = y.dims();
        let flat = y.narrow(1, 0, 36).swap_dims(0, 1);
        let flat = flat.reshape([36, batch * height * width]);
        let moments = flat.clone().matmul(flat.transpose());
        let moments: Vec<f32> = moments.into_data().try_to_vec().unwrap();
        for i in 0..36 {
            for j in 0..36 {
                let scale = (moments[i * 36 + i] * moments[j * 36 + j]).sqrt();
                let expected = match (i / 2 == j / 2, i == j) {
                    (true, true) => 1.0,
                    (true, false) => -1.0,
                    _ => 0.0,
                };
                let correlation = moments[i * 36 + j] / scale;
                assert!(
                    (correlation - expected).abs() < 2e-3,
                    "channels {i} and {j}: {correlation}"
                );
            }
        }
    }
}
