//! Anderson's history as points, on devices that compute all products of a step in one launch.
//!
//! Instead of differences, the points (z, f(z)) themselves are kept: handles, no copies. Difference k
//! of r = f - z is that of the points k and k + 1.

use std::collections::VecDeque;

use burn::tensor::{Bool, Tensor, TensorData};
use deq_kernels::vectors::{Points, combine};

use crate::config::{AndersonConfig, AndersonType};
use crate::input::Rows;

/// The last points of a solve, the oldest first.
pub(super) struct PointHistory {
    points: VecDeque<[Tensor<2>; 2]>,
    /// m, the number of differences.
    slots: usize,
}

impl PointHistory {
    /// For iterates like this one; `None` where the device has no such form, or where the method
    /// needs more than it computes.
    pub(super) fn new(config: &AndersonConfig, like: &Tensor<2>) -> Option<Self> {
        let plain = config.kind == AndersonType::II && config.damping == 1.0;
        (plain && config.history < Points::at_most(like)).then(|| Self {
            points: VecDeque::new(),
            slots: config.history,
        })
    }

    /// Takes in the point number `observations` and returns |r|^2 and |f|^2, `[batch, 2]`, and the
    /// products of the newest difference and of r with all differences, `[batch, 2 m]`, if there
    /// are any.
    pub(super) fn observe(
        &mut self,
        observations: usize,
        z: &Tensor<2>,
        f: &Tensor<2>,
    ) -> (Tensor<2>, Option<Tensor<2>>) {
        if self.points.len() > self.slots {
            self.points.pop_front();
        }
        self.points.push_back([z.clone(), f.clone()]);
        let slots = self.differences(observations);
        let of = Points {
            points: self.points.make_contiguous(),
            slots: &slots,
            width: self.slots,
        };
        let all = of.products().expect("a form for iterates of this shape");
        let products = (observations > 1).then(|| all.clone().narrow(1, 2, 2 * self.slots));
        (all.narrow(1, 0, 2), products)
    }

    /// The slot of each difference of neighbours; the newest point has this number.
    fn differences(&self, observations: usize) -> Vec<usize> {
        let count = self.points.len() - 1;
        let slot = |k: usize| (observations + k - count - 1) % self.slots;
        (0..count).map(slot).collect()
    }

    /// The next iterate: f - sum gamma_k (f_(k+1) - f_k), with `gamma` by slot, m for each sample.
    /// Samples in `back` go on from the point before the newest one.
    pub(super) fn next(
        &mut self,
        observations: usize,
        gamma: Option<&[f64]>,
        back: Option<Tensor<2, Bool>>,
    ) -> Tensor<2> {
        let count = self.points.len();
        if let (Some(rows), true) = (back, count > 1) {
            let before = self.points[count - 2].clone();
            let wide = rows.expand(before[0].dims());
            for (now, before) in self.points[count - 1].iter_mut().zip(before) {
                *now = now.clone().mask_where(wide.clone(), before);
            }
        }
        let [_, newest] = &self.points[count - 1];
        let Some(gamma) = gamma.filter(|_| count > 1) else {
            return newest.clone();
        };
        let slots = self.differences(observations);
        let of_sample = |gamma: &[f64]| {
            let mut weights = vec![0.0; count];
            weights[count - 1] = 1.0;
            for (k, slot) in slots.iter().enumerate() {
                weights[k + 1] -= gamma[*slot];
                weights[k] += gamma[*slot];
            }
            weights
        };
        let weights: Vec<f64> = gamma.chunks_exact(self.slots).flat_map(of_sample).collect();
        let data = TensorData::new(weights, [newest.dims()[0], count]);
        let weights = Tensor::from_data(data, (&newest.device(), newest.dtype()));
        let images: Vec<Tensor<2>> = self.points.iter().map(|[_, f]| f.clone()).collect();
        combine(&weights, &images).expect("a form for iterates of this shape")
    }

    /// The newest point.
    pub(super) fn newest(mut self) -> Option<[Tensor<2>; 2]> {
        self.points.pop_back()
    }

    /// Forgets all samples but these.
    pub(super) fn keep(&mut self, rows: &Rows) {
        for point in &mut self.points {
            *point = point.clone().map(|t| rows.of(t));
        }
    }
}
