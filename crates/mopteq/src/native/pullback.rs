//! Gradients of a step of the objective with respect to kernels and injections.

use rayon::prelude::*;

use super::cell::{Middle, Recipe, apply};
use super::packed::{Packed, add_kernel_gradient};
use super::{Floats, SAMPLES_A_TASK};

/// One branch of a step: what it was computed from, and its value.
pub(super) struct Branch {
    pub(super) recipe: Recipe,
    pub(super) z: Floats,
    pub(super) c: Floats,
    /// W, `[hidden, channels, k, k]`.
    pub(super) weights: Floats,
    pub(super) value: Floats,
}

impl Branch {
    /// The gradients with respect to W and to the injection of <u, value>, as wanted.
    ///
    /// With v = step D u, D the mask of the constraint: if the step holds W'h, h = s'(W z + c), then
    /// dc = s''(W z + c) W v, and W gets the correlations of z with dc and of v with h. If it holds
    /// c - W'W z, then dc = v, and W gets those of z with -W v and of -v with W z.
    pub(super) fn pull_back(
        &self,
        u: &Floats,
        [kernel, injection]: [bool; 2],
    ) -> (Option<Vec<f32>>, Option<Vec<f32>>) {
        let [hidden, channels, k, _] = self.weights.dims;
        let packed = Packed::new(self.weights.elements(), [hidden, channels, k]);
        let (state, injected) = (self.z.sample(), self.c.sample());
        let mut dc = vec![0.0; self.c.elements().len()];
        let tasks = dc
            .par_chunks_mut(SAMPLES_A_TASK * injected)
            .zip(self.c.elements().par_chunks(SAMPLES_A_TASK * injected))
            .zip(self.z.elements().par_chunks(SAMPLES_A_TASK * state))
            .zip(self.value.elements().par_chunks(SAMPLES_A_TASK * state))
            .zip(u.elements().par_chunks(SAMPLES_A_TASK * state));
        // Added up in their order, so that the sum does not depend on the threads.
        let sums: Vec<Vec<f32>> = tasks
            .map(|((((dc, c), z), value), u)| {
                let mut sum = vec![0.0; self.weights.elements().len()];
                self.samples(&packed, [z, value, u], (dc, c), &mut sum, kernel);
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
    ) {
        let [hidden, channels, k, _] = self.weights.dims;
        let [.., height, width] = self.z.dims;
        let size = [height, width];
        let [state, image] = [channels, hidden].map(|n| n * height * width);
        let samples = z.len() / state;
        let pulled = u.iter().zip(value).map(|(u, v)| self.recipe.pulled(*u, *v));
        let mut v: Vec<f32> = pulled.collect();
        let convolve = |from: &[f32]| {
            let mut to = vec![0.0; samples * image];
            for (from, to) in from.chunks_exact(state).zip(to.chunks_exact_mut(image)) {
                packed.convolve(size, from, to);
            }
            to
        };
        let mut a = convolve(z);
        if let Some(activation) = self.recipe.activation() {
            // dc = s''(a + c) W v; then a becomes s'(a + c).
            let p = convolve(&v);
            dc.copy_from_slice(&a);
            apply(Middle::Slope(activation, c), dc);
            apply(Middle::Multiply(&p), dc);
            if kernel {
                apply(Middle::Activate(activation, c), &mut a);
                add_kernel_gradient(size, k, samples, z, dc, sum);
                add_kernel_gradient(size, k, samples, &v, &a, sum);
            }
        } else {
            dc.copy_from_slice(&v);
            if kernel {
                v.iter_mut().for_each(|v| *v = -*v);
                let p = convolve(&v);
                add_kernel_gradient(size, k, samples, z, &p, sum);
                add_kernel_gradient(size, k, samples, &v, &a, sum);
            }
        }
    }
}
