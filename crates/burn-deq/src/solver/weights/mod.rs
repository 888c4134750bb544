//! The weights of Anderson acceleration: a small system per sample, solved on the host or the
//! device, wherever its entries are.

mod device;
mod host;
mod rule;
mod small;

use burn::tensor::{Bool, DType, Tensor};
use deq_kernels::vectors::{Numbers, Rows, Seen, mask};

use self::device::Systems;
use self::host::{Decision, System};
use self::rule::Rule;
use crate::config::AndersonConfig;
use crate::iteration::Scalars;

/// The weights of all samples.
pub(super) struct Weights {
    rule: Rule,
    /// Not known before the first step.
    place: Option<Place>,
}

enum Place {
    /// Computed on the host, sample by sample.
    Host(Vec<System>),
    /// Computed on the device, without a read-back.
    Device(Box<Systems>),
}

/// What happens in one step.
pub(super) struct Decided {
    /// Weights by slot, `[batch, m]`; `None` if all are zero.
    pub(super) gamma: Option<Numbers>,
    /// `[batch, 1]`: samples whose last step is rejected; their weights are zero. `None` if there
    /// are none.
    pub(super) back: Option<Tensor<2, Bool>>,
}

impl Weights {
    pub(super) fn new(config: &AndersonConfig, dtype: DType) -> Self {
        Self {
            rule: Rule::new(config, dtype),
            place: None,
        }
    }

    /// Decides on the step from the observation of the newest point, whose difference is in `slot`.
    /// Without `accelerate`, the step is plain.
    pub(super) fn decide(
        &mut self,
        seen: Seen,
        scalars: Option<&Scalars>,
        slot: usize,
        accelerate: bool,
    ) -> Decided {
        match (seen.products, scalars) {
            (Some(Numbers::Host(numbers)), _) => {
                let width = numbers.len() / seen.squares.dims()[0].max(1);
                let rows = numbers.chunks_exact(width.max(2));
                let rows = rows.map(|row| ([row[0], row[1]], &row[2..]));
                self.on_host(rows, &seen.squares, slot, accelerate)
            }
            (_, Some(scalars)) => self.on_host(scalars.rows(), &seen.squares, slot, accelerate),
            (products, None) => {
                let products = products.map(|p| p.tensor(&seen.squares));
                let new = || Place::Device(Box::new(Systems::new(self.rule, &seen.squares)));
                let Place::Device(systems) = self.place.get_or_insert_with(new) else {
                    unreachable!("the driver always provides scalars, or never");
                };
                let (gamma, back) = systems.update(seen.squares, products, slot, accelerate);
                Decided {
                    gamma: Some(Numbers::Device(gamma)),
                    back: Some(back),
                }
            }
        }
    }

    fn on_host<'s>(
        &mut self,
        rows: impl Iterator<Item = ([f64; 2], &'s [f64])>,
        like: &Tensor<2>,
        slot: usize,
        accelerate: bool,
    ) -> Decided {
        let (batch, m) = (like.dims()[0], self.rule.history);
        let new = || Place::Host(vec![System::new(self.rule); batch]);
        let Place::Host(systems) = self.place.get_or_insert_with(new) else {
            unreachable!("the driver always provides scalars, or never");
        };
        let mut gamma = Vec::with_capacity(batch * m);
        let mut back = Vec::with_capacity(batch);
        for (system, (squares, products)) in systems.iter_mut().zip(rows) {
            let decision = system.update(squares, products, slot, accelerate);
            match decision {
                Decision::Accelerate => gamma.extend_from_slice(&system.gamma),
                _ => gamma.extend(std::iter::repeat_n(0.0, m)),
            }
            back.push(decision == Decision::TakeBack);
        }
        Decided {
            gamma: gamma
                .iter()
                .any(|g| *g != 0.0)
                .then_some(Numbers::Host(gamma)),
            back: back.contains(&true).then(|| mask(&back, like)),
        }
    }

    /// Forgets all differences.
    pub(super) fn restart(&mut self) {
        match &mut self.place {
            None => {}
            Some(Place::Host(all)) => all.iter_mut().for_each(System::restart),
            Some(Place::Device(systems)) => systems.restart(),
        }
    }

    /// Keeps only these samples.
    pub(super) fn keep(&mut self, rows: &Rows) {
        match &mut self.place {
            None => {}
            Some(Place::Host(all)) => {
                *all = rows.indices().iter().map(|i| all[*i].clone()).collect();
            }
            Some(Place::Device(systems)) => systems.keep(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AndersonType;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn weights_on_the_device_are_those_of_the_host() {
        let device = Device::flex();
        let tensor = |v: Vec<f64>| {
            let n = v.len();
            Tensor::<2>::from_data(TensorData::new(v, [1, n]), (&device, DType::F64))
        };
        // Of three differences of a two-dimensional state, the oldest is left out.
        for kind in [AndersonType::II, AndersonType::I] {
            let config = AndersonConfig::new()
                .with_history(3)
                .with_kind(kind)
                .with_regularization(1e-8);
            let rule = Rule::new(&config, DType::F64);
            let mut host = System::new(rule);
            let mut on_device = Systems::new(rule, &tensor(vec![0.0; 2]));
            let steps: [Vec<f64>; 3] = match kind {
                AndersonType::II => [
                    vec![4.0, 0.0, 0.0, -1.0, 0.0, 0.0],
                    vec![1.0, 2.0, 0.0, 0.5, 0.7, 0.0],
                    vec![5.0, 3.0, 8.0, 0.5, 0.7, 1.2],
                ],
                AndersonType::I => [
                    vec![
                        4.0, 0., 0., -1., 0., 0., -5., 0., 0., -1., 0., 0., 0.2, 0., 0.,
                    ],
                    vec![
                        1., 2., 0., 0.5, 0.7, 0., -0.4, -2.5, 0., 0.3, -0.5, 0., 0.1, -0.6, 0.,
                    ],
                    vec![
                        5., 3., 8., 0.5, 0.7, 1.2, -5.4, -3.2, -8.6, -0.7, 0.1, -0.6, 0.1, -0.6,
                        -0.5,
                    ],
                ],
            };
            for (slot, products) in steps.into_iter().enumerate() {
                let decision = host.update([1.0, 1.0], &products, slot, true);
                assert_eq!(decision, Decision::Accelerate);
                let squares = tensor(vec![1.0, 1.0]);
                let (other, _) = on_device.update(squares, Some(tensor(products)), slot, true);
                let other: Vec<f64> = other.into_data().iter::<f64>().collect();
                let gamma = &host.gamma;
                assert!(slot < 2 || gamma[0] == 0.0 && other[0] == 0.0);
                for (a, b) in gamma.iter().zip(&other) {
                    assert!((a - b).abs() < 1e-10, "{kind:?} {gamma:?} {other:?}");
                }
            }
        }
    }
}
