//! Gradients of a step of the objective with respect to kernels and injections.

use std::cell::RefCell;

use rayon::prelude::*;

use super::elementwise::{Middle, apply};
use super::kernel::{Exactness, Packed, add_kernel_gradient};
use super::memory::{Floats, SAMPLES_A_TASK, lend, room};
use crate::formula::{Kernel, StepFormula};

/// Elements of the state per block: the second-level cache holds everything computed from them.
const AT_ONCE: usize = 1 << 16;

thread_local! {
    /// v, W z and W v.
    static MADE: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// One branch of a step: its inputs and its value.
pub(super) struct Branch {
    pub(super) formula: StepFormula,
    pub(super) z: Floats,
    pub(super) c: Floats,
    /// W, `[hidden, channels, k, k]`.
    pub(super) weights: Floats,
    pub(super) value: Floats,
}

impl Branch {
    /// The requested gradients of <u, value> with respect to W and to the injection.
    ///
    /// With v = step D u, where D is the mask of the constraint:
    ///
    /// - if the step holds W'h with h = s'(W z + c), then dc = s''(W z + c) W v, and W gets the
    ///   correlations of z with dc and of v with h;
    /// - if it holds c - W'W z, then dc = v, and W gets the correlations of z with -W v and of -v
    ///   with W z;
    /// - if it holds -W'(W z - c), then dc = W v, and W gets the correlations of z with -W v and of
    ///   -v with W z - c.
    pub(super) fn pull_back(
        &self,
        u: &Floats,
        [kernel, injection]: [bool; 2],
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let [hidden, channels, k, _] = self.weights.dims;
        let packed = Packed::new(
            self.weights.elements(),
            [hidden, channels, k],
            Exactness::Single,
        );
        let (state, injected) = (self.z.sample(), self.c.sample());
        let mut dc = vec![0.0; self.c.elements().len()];
        let tasks = dc
            .par_chunks_mut(SAMPLES_A_TASK * injected)
            .zip(self.c.elements().par_chunks(SAMPLES_A_TASK * injected))
            .zip(self.z.elements().par_chunks(SAMPLES_A_TASK * state))
            .zip(self.value.elements().par_chunks(SAMPLES_A_TASK * state))
            .zip(u.elements().par_chunks(SAMPLES_A_TASK * state));
        // Summed in order, so that the sum does not depend on the threads.
        let sums: Vec<Vec<f32>> = tasks
            .map(|((((dc, c), z), value), u)| {
                let mut sum = vec![0.0; self.weights.elements().len()];
                let group = (AT_ONCE / state).clamp(1, SAMPLES_A_TASK);
                let states = z.chunks(group * state).zip(value.chunks(group * state));
                let states = states.zip(u.chunks(group * state));
                let injections = dc.chunks_mut(group * injected);
                let injections = injections.zip(c.chunks(group * injected));
                for (((z, value), u), injections) in states.zip(injections) {
                    let states = [z, value, u];
                    lend(&MADE, |made| {
                        self.samples(&packed, states, injections, &mut sum, kernel, made);
                    });
                }
                sum
            })
            .collect();
        let mut total = vec![0.0; self.weights.elements().len()];
        for sum in sums {
            total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
        }
        (kernel.then_some(total), injection.then_some(dc))
    }

    /// The gradients of a few samples.
    fn samples(
        &self,
        packed: &Packed,
        [z, value, u]: [&[f32]; 3],
        (dc, c): (&mut [f32], &[f32]),
        sum: &mut [f32],
        kernel: bool,
        [v, a, p]: &mut [Vec<f32>; 3],
    ) {
        let [hidden, channels, k, _] = self.weights.dims;
        let [.., height, width] = self.z.dims;
        let size = [height, width];
        let [state, image] = [channels, hidden].map(|n| n * height * width);
        let samples = z.len() / state;
        let v = room(v, z.len());
        for ((v, u), value) in v.iter_mut().zip(u).zip(value) {
            *v = self.formula.pulled(*u, *value);
        }
        let convolve = |from: &[f32], to: &mut [f32]| {
            for (from, to) in from.chunks_exact(state).zip(to.chunks_exact_mut(image)) {
                packed.convolve(size, from, to);
            }
        };
        let [a, p] = [a, p].map(|memory| room(memory, samples * image));
        convolve(z, a);
        if let Some(activation) = self.formula.activation() {
            // dc = s''(a + c) W v; then a becomes s'(a + c).
            convolve(v, p);
            dc.copy_from_slice(a);
            apply(Middle::Slope(activation, c), dc);
            apply(Middle::Multiply(p), dc);
            if kernel {
                apply(Middle::Activate(activation, c), a);
                add_kernel_gradient(Exactness::Single, size, k, samples, z, dc, sum);
                add_kernel_gradient(Exactness::Single, size, k, samples, v, a, sum);
            }
        } else if self.formula.kernel == Kernel::Reconstruction {
            convolve(v, p);
            dc.copy_from_slice(p);
            if kernel {
                v.iter_mut().for_each(|v| *v = -*v);
                p.iter_mut().for_each(|p| *p = -*p);
                apply(Middle::Subtract(c), a);
                add_kernel_gradient(Exactness::Single, size, k, samples, z, p, sum);
                add_kernel_gradient(Exactness::Single, size, k, samples, v, a, sum);
            }
        } else {
            // Without the proximity, c is not in the objective.
            if self.formula.proximity {
                dc.copy_from_slice(v);
            }
            if kernel {
                v.iter_mut().for_each(|v| *v = -*v);
                convolve(v, p);
                add_kernel_gradient(Exactness::Single, size, k, samples, z, p, sum);
                add_kernel_gradient(Exactness::Single, size, k, samples, v, a, sum);
            }
        }
    }
}
