//! Gradients of a step of the objective with respect to kernels and injections.

use rayon::prelude::*;

use super::cell::{Middle, Recipe, apply};
use super::raster::{PIXELS_AT_ONCE, Packed, Raster, add_kernel_gradient};
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

/// Planes with borders of some samples.
#[derive(Default)]
struct Planes {
    z: Vec<f32>,
    v: Vec<f32>,
    a: Vec<f32>,
    p: Vec<f32>,
    plain: Vec<f32>,
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
                let mut planes = Planes::default();
                let [_, _, height, width] = self.z.dims;
                let raster = Raster::new([height, width], k);
                let group = PIXELS_AT_ONCE.div_ceil(raster.size()).min(SAMPLES_A_TASK);
                let states = z.chunks(group * state).zip(value.chunks(group * state));
                let states = states.zip(u.chunks(group * state));
                let injections = dc
                    .chunks_mut(group * injected)
                    .zip(c.chunks(group * injected));
                for (((z, value), u), (dc, c)) in states.zip(injections) {
                    let state = [z, value, u];
                    self.group(
                        &packed,
                        raster,
                        &mut planes,
                        state,
                        (dc, c),
                        &mut sum,
                        kernel,
                    );
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
    #[allow(
        clippy::too_many_arguments,
        reason = "all of them are parts of one computation"
    )]
    fn group(
        &self,
        packed: &Packed,
        raster: Raster,
        planes: &mut Planes,
        [z, value, u]: [&[f32]; 3],
        (dc, c): (&mut [f32], &[f32]),
        sum: &mut [f32],
        kernel: bool,
    ) {
        let Planes {
            z: x,
            v,
            a,
            p,
            plain,
        } = planes;
        let [hidden, channels, ..] = self.weights.dims;
        let samples = z.len() / (channels * raster.size());
        plain.clear();
        plain.extend(
            u.iter()
                .zip(value)
                .map(|(u, value)| self.recipe.pulled(*u, *value)),
        );
        let convolve = |from: &[f32], to: &mut Vec<f32>| {
            to.resize(samples * hidden * raster.plane(), 0.0);
            let from = from.chunks_exact(channels * raster.plane());
            for (from, to) in from.zip(to.chunks_exact_mut(hidden * raster.plane())) {
                packed.convolve_into(raster, from, to);
            }
        };
        raster.enter(z, x);
        convolve(x, a);
        if let Some(activation) = self.recipe.activation() {
            raster.enter(plain, v);
            convolve(v, p);
            // dc = s''(a + c) W v; then a becomes s'(a + c).
            let mut slopes = a.clone();
            apply(
                raster,
                samples * hidden,
                Middle::Slope(activation, c),
                &mut slopes,
            );
            p.iter_mut().zip(&slopes).for_each(|(p, s)| *p *= s);
            apply(raster, samples * hidden, Middle::Activate(activation, c), a);
            raster.leave(p, dc);
        } else {
            dc.copy_from_slice(plain);
            plain.iter_mut().for_each(|v| *v = -*v);
            raster.enter(plain, v);
            convolve(v, p);
        }
        if kernel {
            add_kernel_gradient(raster, samples, x, p, sum);
            add_kernel_gradient(raster, samples, v, a, sum);
        }
    }
}
