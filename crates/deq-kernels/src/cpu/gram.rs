//! The joint product E'G E of all branches of a sample.
//!
//! E brings every branch to the resolution of the first by scaled nearest up-sampling and stacks
//! their channels; E' is its transpose, scaled pooling. G is one matrix for every pixel of the
//! stack, so a product costs (channels)^2 multiplications per pixel.

use std::cell::RefCell;

use rayon::prelude::*;

use super::kernel::{Exactness, Packed, add_kernel_gradient};
use super::memory::{Floats, SAMPLES_A_TASK, lend, produce, room};
use super::pooling::Grid;
use crate::formula::StepFormula;

/// Elements of E z per group of samples: the second-level cache holds them.
const AT_ONCE: usize = 1 << 16;

thread_local! {
    /// E z and E v.
    static STACKED: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

fn area([height, width]: [usize; 2]) -> usize {
    height * width
}

/// Brings planes from the size of their branch to that of the first: a part of E.
fn rise(sizes: &[[usize; 2]], branch: usize, from: &[f32], to: &mut [f32]) {
    let (fine, coarse) = (sizes[0], sizes[branch]);
    if fine == coarse {
        return to.copy_from_slice(from);
    }
    let grid = Grid { fine, coarse };
    grid.spread(grid.isometric(), from, to);
}

/// E z.
fn stack<'m>(sizes: &[[usize; 2]], z: &[&[f32]], memory: &'m mut Vec<f32>) -> &'m [f32] {
    let channels = z.iter().zip(sizes).map(|(z, size)| z.len() / area(*size));
    let stacked = room(memory, channels.sum::<usize>() * area(sizes[0]));
    stack_into(sizes, z, stacked);
    stacked
}

fn stack_into(sizes: &[[usize; 2]], z: &[&[f32]], mut to: &mut [f32]) {
    for (i, z) in z.iter().enumerate() {
        let length = z.len() / area(sizes[i]) * area(sizes[0]);
        let (part, after) = std::mem::take(&mut to).split_at_mut(length);
        rise(sizes, i, z, part);
        to = after;
    }
}

/// The branch's part of E'y, from the same part of y.
pub(super) fn fall<'m>(
    sizes: &[[usize; 2]],
    branch: usize,
    part: &'m [f32],
    memory: &'m mut Vec<f32>,
) -> &'m [f32] {
    let (fine, coarse) = (sizes[0], sizes[branch]);
    if fine == coarse {
        return part;
    }
    let pooled = room(memory, part.len() / area(fine) * area(coarse));
    let grid = Grid { fine, coarse };
    grid.pool(grid.isometric(), part, pooled);
    pooled
}

/// G E z, a part of the product E'G E.
pub(super) fn image<'m>(
    gram: &Packed,
    sizes: &[[usize; 2]],
    z: &[&[f32]],
    stacked: &mut Vec<f32>,
    memory: &'m mut Vec<f32>,
) -> &'m [f32] {
    let image = room(memory, gram.channels_out() * area(sizes[0]));
    match z {
        [z] => gram.convolve(sizes[0], z, image),
        _ => gram.convolve(sizes[0], stack(sizes, z, stacked), image),
    }
    image
}

/// A branch of a step whose gradients are wanted.
pub(super) struct Branch {
    pub(super) formula: StepFormula,
    /// All branches of the state.
    pub(super) z: Vec<Floats>,
    /// Which branch this is.
    pub(super) branch: usize,
    /// The value of the step for this branch.
    pub(super) value: Floats,
}

impl Branch {
    /// The gradients of <u, value> with respect to G and to the injection. With v = step D u, where
    /// D is the mask of the constraint, they are -(E v)(E z)' and v.
    pub(super) fn pull_back(
        &self,
        u: &Floats,
        [gram, injection]: [bool; 2],
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let [batch, ..] = self.value.dims;
        let ([v], _) = produce(batch, self.value.sample(), |n, [v]| {
            let v = v.zeros(self.value.sample());
            let pulled = u.of_sample(n).iter().zip(self.value.of_sample(n));
            for (v, (u, value)) in v.iter_mut().zip(pulled) {
                *v = self.formula.pulled(*u, *value);
            }
        });
        let gram = gram.then(|| self.gram(&v));
        (gram, injection.then_some(v))
    }

    fn gram(&self, v: &[f32]) -> Vec<f32> {
        let sizes: Vec<[usize; 2]> = self.z.iter().map(|z| [z.dims[2], z.dims[3]]).collect();
        let channels: Vec<usize> = self.z.iter().map(|z| z.dims[1]).collect();
        let all: usize = channels.iter().sum();
        let first: usize = channels[..self.branch].iter().sum();
        let (own, finest) = (channels[self.branch], area(sizes[0]));
        let batch = self.value.dims[0];
        let sample = self.value.sample();
        let tasks = (0..batch.div_ceil(SAMPLES_A_TASK)).into_par_iter();
        // Summed in order, so that the sum does not depend on the threads.
        let sums: Vec<Vec<f32>> = tasks
            .map(|task| {
                let mut sum = vec![0.0; own * all];
                let end = batch.min((task + 1) * SAMPLES_A_TASK);
                // Small pictures are summed together, because every sum has a fixed cost.
                let group = (AT_ONCE / (all * finest)).clamp(1, SAMPLES_A_TASK);
                for start in (task * SAMPLES_A_TASK..end).step_by(group) {
                    let samples = end.min(start + group) - start;
                    lend(&STACKED, |[stacked, raised]| {
                        let stacked = room(stacked, samples * all * finest);
                        let raised = room(raised, samples * own * finest);
                        let rows = stacked.chunks_exact_mut(all * finest);
                        let rows = rows.zip(raised.chunks_exact_mut(own * finest));
                        for (n, (stacked, raised)) in (start..).zip(rows) {
                            let z = self.z.iter().map(|z| z.of_sample(n));
                            stack_into(&sizes, &z.collect::<Vec<_>>(), stacked);
                            rise(&sizes, self.branch, &v[n * sample..][..sample], raised);
                        }
                        add_kernel_gradient(
                            Exactness::Single,
                            sizes[0],
                            1,
                            samples,
                            stacked,
                            raised,
                            &mut sum,
                        );
                    });
                }
                sum
            })
            .collect();
        let mut total = vec![0.0; all * all];
        let rows = &mut total[first * all..][..own * all];
        for sum in sums {
            rows.iter_mut().zip(sum).for_each(|(t, s)| *t -= s);
        }
        total
    }
}
