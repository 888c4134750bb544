//! A history of points, on devices that compute all products of a step in one launch.
//!
//! The points (z, f(z)) themselves are kept, as handles rather than copies. Difference k is that of
//! the points k and k + 1.

use std::collections::VecDeque;

use burn::tensor::{Bool, Tensor, TensorData};

use super::rows::Rows;
use super::store::{History, HistoryShape, Numbers, Seen};
use crate::cube;

/// A history for iterates like this one; `None` if the device has no such form, or if the shape
/// asks for more than the form computes.
pub(super) fn history(shape: HistoryShape, like: &Tensor<2>) -> Option<Box<dyn History>> {
    let plain = !shape.secant && shape.damping == 1.0;
    (plain && shape.slots < cube::most_points(like)).then(|| {
        Box::new(PointHistory {
            points: VecDeque::new(),
            shape,
            seen: 0,
        }) as Box<dyn History>
    })
}

/// The last points of a solve, the oldest first.
struct PointHistory {
    points: VecDeque<[Tensor<2>; 2]>,
    shape: HistoryShape,
    /// Points seen so far.
    seen: usize,
}

impl PointHistory {
    /// The slot of each difference of consecutive points.
    fn slots(&self) -> Vec<usize> {
        let m = self.shape.slots;
        let count = self.points.len() - 1;
        let age = |k: usize| count - 1 - k;
        let newest = self.shape.slot(self.seen);
        (0..count).map(|k| (newest + m - age(k)) % m).collect()
    }

    /// Weights of the images, `[batch, points]`, in f minus the sum of gamma_k (f_(k+1) - f_k).
    fn weights(&self, gamma: Numbers) -> Tensor<2> {
        let newest = &self.points[self.points.len() - 1][1];
        let (slots, count) = (self.slots(), self.points.len());
        match gamma {
            Numbers::Host(gamma) => {
                let of_sample = |gamma: &[f64]| {
                    let mut weights = vec![0.0; count];
                    weights[count - 1] = 1.0;
                    for (k, slot) in slots.iter().enumerate() {
                        weights[k + 1] -= gamma[*slot];
                        weights[k] += gamma[*slot];
                    }
                    weights
                };
                let m = self.shape.slots;
                let weights: Vec<f64> = gamma.chunks_exact(m).flat_map(of_sample).collect();
                let data = TensorData::new(weights, [newest.dims()[0], count]);
                Tensor::from_data(data, (&newest.device(), newest.dtype()))
            }
            Numbers::Device(gamma) => {
                let of = |slot: &usize| gamma.clone().narrow(1, *slot, 1);
                let by_age: Vec<Tensor<2>> = slots.iter().map(of).collect();
                let one = by_age[0].ones_like();
                let after = by_age.iter().cloned().chain([one.clone()]).collect();
                let before = [one.zeros_like()].into_iter().chain(by_age).collect();
                Tensor::cat(after, 1) - Tensor::cat(before, 1)
            }
        }
    }
}

impl History for PointHistory {
    fn observe(&mut self, z: &Tensor<2>, f: &Tensor<2>) -> Seen {
        let m = self.shape.slots;
        if self.points.len() > m {
            self.points.pop_front();
        }
        self.points.push_back([z.clone(), f.clone()]);
        self.seen += 1;
        let slots = self.slots();
        let all = cube::products(self.points.make_contiguous(), &slots, m);
        let all = all.expect("a form for iterates of this shape");
        Seen {
            residual: None,
            products: (self.seen > 1).then(|| Numbers::Device(all.clone().narrow(1, 2, 2 * m))),
            squares: all.narrow(1, 0, 2),
        }
    }

    fn next(&mut self, gamma: Option<Numbers>, back: Option<Tensor<2, Bool>>) -> Tensor<2> {
        let count = self.points.len();
        if let (Some(rows), true) = (back, count > 1) {
            let before = self.points[count - 2].clone();
            let wide = rows.expand(before[0].dims());
            for (now, before) in self.points[count - 1].iter_mut().zip(before) {
                *now = now.clone().mask_where(wide.clone(), before);
            }
        }
        let Some(gamma) = gamma.filter(|_| count > 1) else {
            return self.points[count - 1][1].clone();
        };
        let weights = self.weights(gamma);
        let images: Vec<Tensor<2>> = self.points.iter().map(|[_, f]| f.clone()).collect();
        cube::combine(&weights, &images).expect("a form for iterates of this shape")
    }

    fn keep(&mut self, rows: &Rows) {
        for point in &mut self.points {
            *point = point.clone().map(|t| rows.of(t));
        }
    }
}
