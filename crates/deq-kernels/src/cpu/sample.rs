//! One step of an objective, or one product with the Hessian, sample by sample.
//!
//! A sample stays in the cache, and there is no intermediate tensor. A step costs two convolutions
//! per branch; the elementwise work adds a few passes over the sample.

use pulp::Arch;

use super::elementwise::{Combine, Conclude, Couple, Last, Middle, apply};
use super::gram;
use super::kernel::Packed;
use super::memory::room;
use super::prepared::Kernels;
use crate::formula::{Finish, Kernel, StepFormula};

/// What to compute for a sample.
#[derive(Clone, Copy)]
pub(crate) enum Job<'a> {
    /// A step from z, with the injections c.
    Step(&'a [&'a [f32]], Finish),
    /// s''(W z + c) instead of the state, with the injections c.
    Slopes(&'a [&'a [f32]]),
    /// (I - step H) u.
    Product {
        /// s''(W z + c), unless the Hessian is constant.
        slopes: Option<&'a [&'a [f32]]>,
        /// Factor of u.
        before: Option<&'a [&'a [f32]]>,
        /// Factor of the product.
        after: Option<&'a [&'a [f32]]>,
    },
}

/// Scratch memory, reused from sample to sample.
#[derive(Default)]
pub(crate) struct Scratch {
    a: Vec<f32>,
    t: Vec<f32>,
    /// Input of the product.
    masked: Vec<Vec<f32>>,
}

/// One sample of a batch.
pub(crate) struct Sample<'a> {
    pub(crate) formula: &'a StepFormula,
    pub(crate) kernels: &'a [Kernels],
    /// Height and width of the branches.
    pub(crate) sizes: &'a [[usize; 2]],
    /// The state or vector, branch by branch.
    pub(crate) z: &'a [&'a [f32]],
    pub(crate) job: Job<'a>,
}

impl Sample<'_> {
    /// Runs the job. The result of every branch has the shape of the branch, or that of W z for
    /// slopes.
    pub(crate) fn run(&self, scratch: &mut Scratch, out: &mut [&mut [f32]]) {
        let mut masked = std::mem::take(&mut scratch.masked);
        if let Job::Product {
            before: Some(mask), ..
        } = self.job
        {
            masked.resize(self.z.len(), Vec::new());
            for ((masked, z), mask) in masked.iter_mut().zip(self.z).zip(mask) {
                masked.clear();
                masked.extend(z.iter().zip(*mask).map(|(z, m)| z * m));
            }
            let z: Vec<&[f32]> = masked.iter().map(Vec::as_slice).collect();
            Sample { z: &z, ..*self }.unmasked(scratch, out);
        } else {
            self.unmasked(scratch, out);
        }
        scratch.masked = masked;
    }

    fn unmasked(&self, scratch: &mut Scratch, out: &mut [&mut [f32]]) {
        match self.formula.kernel {
            Kernel::Gram => self.joint(scratch, out),
            _ => self.branches(scratch, out),
        }
        self.finish(out);
    }

    /// v of all branches without the couplings, from the joint product.
    fn joint(&self, scratch: &mut Scratch, out: &mut [&mut [f32]]) {
        let kernels = &self.kernels[0];
        let zero = kernels.finite && self.z.iter().all(|z| z.iter().all(|z| *z == 0.0));
        let Scratch { a, t, .. } = scratch;
        let mut rest = match zero {
            true => &[][..],
            false => gram::image(&kernels.forward, self.sizes, self.z, a, t),
        };
        for (i, out) in out.iter_mut().enumerate() {
            let planes = self.z[i].len() / (self.sizes[i][0] * self.sizes[i][1]);
            if zero {
                let t = room(a, self.z[i].len());
                t.fill(0.0);
                self.combine(i, t, out);
                continue;
            }
            let (part, after) = rest.split_at(planes * self.sizes[0][0] * self.sizes[0][1]);
            rest = after;
            self.combine(i, gram::fall(self.sizes, i, part, a), out);
        }
    }

    /// v of a branch without the couplings, from its product t.
    fn combine(&self, i: usize, t: &[f32], out: &mut [f32]) {
        let formula = self.formula;
        let sign = if formula.activation().is_some() {
            -1.0
        } else {
            1.0
        };
        let injection = match self.job {
            Job::Step(c, _) if formula.proximity => Some(c[i]),
            _ => None,
        };
        Arch::new().dispatch(Combine {
            keep: (1.0 - formula.step * formula.quadratic) as f32,
            scale: (-formula.step * sign) as f32,
            step: formula.step as f32,
            z: self.z[i],
            t,
            injection,
            out,
        });
    }

    /// v of all branches without the couplings, from each branch's kernel and its transpose.
    fn branches(&self, scratch: &mut Scratch, out: &mut [&mut [f32]]) {
        let formula = self.formula;
        for (i, kernels) in self.kernels.iter().enumerate() {
            let size = self.sizes[i];
            let planes = |kernel: &Packed| kernel.channels_out() * size[0] * size[1];
            let a = match self.job {
                Job::Slopes(_) => &mut *out[i],
                _ => room(&mut scratch.a, planes(&kernels.forward)),
            };
            // Solves start at zero, where the convolution is zero.
            let zero = kernels.finite && self.z[i].iter().all(|z| *z == 0.0);
            if zero {
                a.fill(0.0);
            } else {
                kernels.forward.convolve(size, self.z[i], a);
            }
            let middle = match (self.job, formula.activation()) {
                (Job::Step(c, _), Some(activation)) => Middle::Activate(activation, c[i]),
                (Job::Slopes(c), Some(activation)) => Middle::Slope(activation, c[i]),
                (Job::Product { slopes, .. }, _) => {
                    slopes.map_or(Middle::Nothing, |s| Middle::Multiply(s[i]))
                }
                (Job::Step(c, _), None) if formula.kernel == Kernel::Reconstruction => {
                    Middle::Subtract(c[i])
                }
                (Job::Step(..) | Job::Slopes(_), None) => Middle::Nothing,
            };
            apply(middle, a);
            if let Job::Slopes(_) = self.job {
                continue;
            }
            let t = room(&mut scratch.t, planes(&kernels.transposed));
            if zero && !matches!(middle, Middle::Activate(..) | Middle::Subtract(_)) {
                t.fill(0.0);
            } else {
                kernels.transposed.convolve(size, a, t);
            }
            self.combine(i, t, out[i]);
        }
    }

    /// Couplings, and the proximal map or the mask.
    fn finish(&self, out: &mut [&mut [f32]]) {
        if let Job::Slopes(_) = self.job {
            return;
        }
        let formula = self.formula;
        for coupling in &formula.couplings {
            let strength = (formula.step * coupling.strength) as f32;
            for pair in coupling.pairs(self.z.len()) {
                self.couple(pair, strength, out);
            }
        }
        for (i, out) in out.iter_mut().enumerate() {
            let finish = match self.job {
                Job::Product { after, .. } => match after {
                    Some(mask) => Last::Multiply(mask[i]),
                    None => continue,
                },
                Job::Step(_, finish) => match formula.prox {
                    Some(prox) => Last::Constrain(prox, finish),
                    None => continue,
                },
                Job::Slopes(_) => continue,
            };
            Arch::new().dispatch(Conclude {
                out,
                step: formula.step as f32,
                last: finish,
            });
        }
    }

    /// Takes a step along -strength * (gradient of 1/2 |Q z_i - z_j|^2).
    fn couple(&self, (i, j): (usize, usize), strength: f32, out: &mut [&mut [f32]]) {
        let area = |k: usize| self.sizes[k][0] * self.sizes[k][1];
        let (fine, coarse) = if area(i) >= area(j) { (i, j) } else { (j, i) };
        let couple = Couple {
            fine: self.sizes[fine],
            coarse: self.sizes[coarse],
            strength,
            z: [self.z[fine], self.z[coarse]],
        };
        let [fine, coarse] = out
            .get_disjoint_mut([fine, coarse])
            .expect("a pair has two branches");
        Arch::new().dispatch(couple.onto(fine, coarse));
    }
}
