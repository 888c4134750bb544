//! One step of an objective, or one product with the Hessian, sample by sample.
//!
//! What the terms say one by one with tensors is said here in one go: everything of a sample stays
//! in the cache, and no intermediate tensor is made.

use pulp::{Arch, Simd, WithSimd};

use super::packed::Packed;
use super::pool::Lines;
use super::room;
use crate::constraint::Constraint;
use crate::terms::{ActivationConfig, Coupling, Formula};

/// An objective as the native path knows it: z -> prox(z - step dG/dz), with
/// G = q/2 |z|^2 - <c, z> + kernel term + coupling.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    quadratic: f64,
    proximity: bool,
    kernel: Kernel,
    couplings: Vec<Coupling>,
    constraint: Option<Constraint>,
    step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    /// 1/2 |W z|^2.
    Energy,
    /// -1's(W z + c).
    Potential(ActivationConfig),
}

impl Recipe {
    /// The recipe for a sum of terms; `None` if it is not of this form.
    pub(crate) fn new(
        formulas: impl Iterator<Item = Option<Formula>>,
        constraint: Option<Constraint>,
        step: f64,
    ) -> Option<Self> {
        let (mut quadratic, mut proximity, mut kernel) = (0.0, false, None);
        let mut couplings = Vec::new();
        for formula in formulas {
            let once = match formula? {
                Formula::Quadratic(q) => {
                    quadratic += q.weight;
                    true
                }
                Formula::Proximity => {
                    quadratic += 1.0;
                    !std::mem::replace(&mut proximity, true)
                }
                Formula::KernelEnergy => kernel.replace(Kernel::Energy).is_none(),
                Formula::ActivationPotential(a) => kernel.replace(Kernel::Potential(a)).is_none(),
                Formula::Coupling(c) => {
                    couplings.push(c);
                    true
                }
            };
            if !once {
                return None;
            }
        }
        // Injections have one shape: that of the state, or that of W z.
        if proximity && matches!(kernel, Some(Kernel::Potential(_))) {
            return None;
        }
        Some(Self {
            quadratic,
            proximity,
            kernel: kernel?,
            couplings,
            constraint,
            step,
        })
    }

    /// Whether the injections have the channels of the state, and not those of W z.
    pub(crate) fn injects_into_state(&self) -> bool {
        self.proximity
    }

    /// Whether the couplings know what to do with branches of these sizes: of two, one is the
    /// finer one along both sides.
    pub(crate) fn fits(&self, sizes: &[[usize; 2]]) -> bool {
        let nested = |a: [usize; 2], b: [usize; 2]| (0..2).all(|d| a[d].is_multiple_of(b[d]));
        self.couplings.iter().all(|c| {
            c.pairs(sizes.len())
                .all(|(i, j)| nested(sizes[i], sizes[j]) || nested(sizes[j], sizes[i]))
        })
    }

    /// The activation between W and its transpose, if there is one.
    pub(super) fn activation(&self) -> Option<ActivationConfig> {
        match self.kernel {
            Kernel::Energy => None,
            Kernel::Potential(activation) => Some(activation),
        }
    }

    /// The gradient with respect to step * (what prox is applied to), from that with respect to a
    /// value of prox.
    pub(super) fn pulled(&self, u: f32, value: f32) -> f32 {
        if self.moves(value) {
            u * self.step as f32
        } else {
            0.0
        }
    }

    /// Whether prox, where it has this value, moves with its argument: the mask is 1.
    #[inline(always)]
    pub(super) fn moves(&self, value: f32) -> bool {
        match self.constraint {
            None => true,
            Some(Constraint::NonNegative) => value > 0.0,
            Some(Constraint::Interval { low, high }) => value > low as f32 && value < high as f32,
            Some(Constraint::L1 { .. }) => value != 0.0,
        }
    }

    /// Whether the Hessian depends on z.
    pub(crate) fn has_slopes(&self) -> bool {
        self.kernel != Kernel::Energy
    }
}

/// Kernels of one branch.
#[derive(Clone, Debug)]
pub(crate) struct Kernels {
    pub(crate) forward: Packed,
    pub(crate) transposed: Packed,
    /// Whether all weights are: then they map zero to zero.
    pub(crate) finite: bool,
}

/// What is done with v = z - step dG/dz.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finish {
    /// prox(v).
    Prox,
    /// The derivative of prox at v.
    Mask,
}

/// What is wanted of a sample.
#[derive(Clone, Copy)]
pub(crate) enum Job<'a> {
    /// A step from z, with the injections c.
    Step(&'a [&'a [f32]], Finish),
    /// s''(W z + c) in place of the state, with the injections c.
    Slopes(&'a [&'a [f32]]),
    /// (I - step H) u.
    Product {
        /// s''(W z + c), unless the Hessian is constant.
        slopes: Option<&'a [&'a [f32]]>,
        /// What u is multiplied by.
        before: Option<&'a [&'a [f32]]>,
        /// What the product is multiplied by.
        after: Option<&'a [&'a [f32]]>,
    },
}

/// Memory that one sample after the other is computed in.
#[derive(Default)]
pub(crate) struct Scratch {
    a: Vec<f32>,
    t: Vec<f32>,
    /// Input of the product.
    masked: Vec<Vec<f32>>,
}

/// One sample of a batch.
pub(crate) struct Sample<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) kernels: &'a [Kernels],
    /// Height and width of the branches.
    pub(crate) sizes: &'a [[usize; 2]],
    /// The state or vector, branch by branch.
    pub(crate) z: &'a [&'a [f32]],
    pub(crate) job: Job<'a>,
}

impl Sample<'_> {
    /// Does the job; the result of every branch has the shape of the branch, and that of W z for
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
        let recipe = self.recipe;
        for (i, kernels) in self.kernels.iter().enumerate() {
            let size = self.sizes[i];
            let planes = |kernel: &Packed| kernel.channels_out() * size[0] * size[1];
            let a = match self.job {
                Job::Slopes(_) => &mut *out[i],
                _ => room(&mut scratch.a, planes(&kernels.forward)),
            };
            // Solves start at zero, where there is nothing to convolve.
            let zero = kernels.finite && self.z[i].iter().all(|z| *z == 0.0);
            if zero {
                a.fill(0.0);
            } else {
                kernels.forward.convolve(size, self.z[i], a);
            }
            let middle = match (self.job, recipe.activation()) {
                (Job::Step(c, _), Some(activation)) => Middle::Activate(activation, c[i]),
                (Job::Slopes(c), Some(activation)) => Middle::Slope(activation, c[i]),
                (Job::Product { slopes, .. }, _) => {
                    slopes.map_or(Middle::Nothing, |s| Middle::Multiply(s[i]))
                }
                (Job::Step(..) | Job::Slopes(_), None) => Middle::Nothing,
            };
            apply(middle, a);
            if let Job::Slopes(_) = self.job {
                continue;
            }
            let t = room(&mut scratch.t, planes(&kernels.transposed));
            if zero && !matches!(middle, Middle::Activate(..)) {
                t.fill(0.0);
            } else {
                kernels.transposed.convolve(size, a, t);
            }
            let sign = if recipe.activation().is_some() {
                -1.0
            } else {
                1.0
            };
            let injection = match self.job {
                Job::Step(c, _) if recipe.proximity => Some(c[i]),
                _ => None,
            };
            Arch::new().dispatch(Combine {
                keep: (1.0 - recipe.step * recipe.quadratic) as f32,
                scale: (-recipe.step * sign) as f32,
                step: recipe.step as f32,
                z: self.z[i],
                t,
                injection,
                out: out[i],
            });
        }
        if let Job::Slopes(_) = self.job {
            return;
        }
        for coupling in &recipe.couplings {
            let strength = (recipe.step * coupling.strength) as f32;
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
                Job::Step(_, finish) => match recipe.constraint {
                    Some(constraint) => Last::Constrain(constraint, finish),
                    None => continue,
                },
                Job::Slopes(_) => continue,
            };
            Arch::new().dispatch(Conclude {
                out,
                step: recipe.step as f32,
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
            .expect("a pair is of two branches");
        Arch::new().dispatch(couple.onto(fine, coarse));
    }
}

/// What happens between the two convolutions.
#[derive(Clone, Copy)]
pub(super) enum Middle<'a> {
    Nothing,
    /// a -> s'(a + c)
    Activate(ActivationConfig, &'a [f32]),
    /// a -> s''(a + c)
    Slope(ActivationConfig, &'a [f32]),
    /// a -> a s
    Multiply(&'a [f32]),
}

/// Applies it.
pub(super) fn apply(middle: Middle<'_>, a: &mut [f32]) {
    Arch::new().dispatch(Apply { middle, a });
}

struct Apply<'a> {
    middle: Middle<'a>,
    a: &'a mut [f32],
}

impl Apply<'_> {
    /// a -> f(a, b).
    #[inline(always)]
    fn zip(self, b: &[f32], f: impl Fn(f32, f32) -> f32) {
        for (a, b) in self.a.iter_mut().zip(b) {
            *a = f(*a, *b);
        }
    }
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        use ActivationConfig as A;
        // Comparisons, unlike max, let NaN through.
        let positive = |a: f32| if a > 0.0 { 1.0 } else { 0.0 };
        match self.middle {
            Middle::Nothing => {}
            Middle::Multiply(s) => self.zip(s, |a, s| a * s),
            Middle::Activate(A::Relu, c) => self.zip(c, |a, c| relu(a + c)),
            Middle::Activate(A::LeakyRelu { slope }, c) => {
                let slope = slope as f32;
                self.zip(c, |a, c| {
                    let a = a + c;
                    if a < 0.0 { a * slope } else { a }
                });
            }
            Middle::Activate(A::Softplus, c) => self.zip(c, |a, c| softplus(a + c)),
            Middle::Activate(A::Tanh, c) => self.zip(c, |a, c| (a + c).tanh()),
            Middle::Slope(A::Relu, c) => self.zip(c, |a, c| positive(a + c)),
            Middle::Slope(A::LeakyRelu { slope }, c) => {
                let slope = slope as f32;
                self.zip(c, |a, c| if a + c > 0.0 { 1.0 } else { slope });
            }
            Middle::Slope(A::Softplus, c) => self.zip(c, |a, c| 1.0 / (1.0 + (-(a + c)).exp())),
            Middle::Slope(A::Tanh, c) => self.zip(c, |a, c| {
                let h = (a + c).tanh();
                1.0 - h * h
            }),
        }
    }
}

#[inline(always)]
fn relu(a: f32) -> f32 {
    if a < 0.0 { 0.0 } else { a }
}

#[inline(always)]
fn softplus(a: f32) -> f32 {
    // max(a, 0) + ln(1 + e^-|a|) does not overflow.
    relu(a) + (-a.abs()).exp().ln_1p()
}

/// out = keep z + scale t + step c.
struct Combine<'a> {
    keep: f32,
    scale: f32,
    step: f32,
    z: &'a [f32],
    t: &'a [f32],
    injection: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl WithSimd for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            keep, scale, step, ..
        } = self;
        let terms = self.out.iter_mut().zip(self.z).zip(self.t);
        match self.injection {
            Some(c) => {
                for (((out, z), t), c) in terms.zip(c) {
                    *out = keep * z + scale * t + step * c;
                }
            }
            None => {
                for ((out, z), t) in terms {
                    *out = keep * z + scale * t;
                }
            }
        }
    }
}

/// A pair of branches.
struct Couple<'a> {
    fine: [usize; 2],
    coarse: [usize; 2],
    strength: f32,
    z: [&'a [f32]; 2],
}

struct CoupleOnto<'a, 'o> {
    couple: Couple<'a>,
    fine: &'o mut [f32],
    coarse: &'o mut [f32],
}

impl<'a> Couple<'a> {
    fn onto<'o>(self, fine: &'o mut [f32], coarse: &'o mut [f32]) -> CoupleOnto<'a, 'o> {
        CoupleOnto {
            couple: self,
            fine,
            coarse,
        }
    }
}

impl WithSimd for CoupleOnto<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Couple {
            fine: [height, width],
            coarse: [h, w],
            strength,
            z: [z, z_coarse],
        } = self.couple;
        let (sy, sx) = (height / h, width / w);
        let scale = 1.0 / ((sy * sx) as f32).sqrt();
        let mut lines = Lines::default();
        // Rows of the coarser grid, of all channels one after the other.
        let bands = z
            .chunks_exact(sy * width)
            .zip(self.fine.chunks_exact_mut(sy * width));
        let coarse = z_coarse
            .chunks_exact(w)
            .zip(self.coarse.chunks_exact_mut(w));
        for ((band, fine), (z, coarse)) in bands.zip(coarse) {
            // r = strength (Q z - z_coarse).
            lines.add_rows(band, width);
            lines.fold(sx);
            for ((r, z), out) in lines.line.iter_mut().zip(z).zip(coarse) {
                let residual = (*r * scale - z) * strength;
                *out += residual;
                *r = residual * scale;
            }
            lines.unfold(sx);
            for row in fine.chunks_exact_mut(width) {
                for (out, r) in row.iter_mut().zip(&lines.line) {
                    *out -= r;
                }
            }
        }
    }
}

/// What happens to the result in the end.
enum Last<'a> {
    Multiply(&'a [f32]),
    Constrain(Constraint, Finish),
}

struct Conclude<'a> {
    out: &'a mut [f32],
    step: f32,
    last: Last<'a>,
}

impl WithSimd for Conclude<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let out = self.out;
        let indicator = |yes: bool| if yes { 1.0 } else { 0.0 };
        match self.last {
            Last::Multiply(mask) => {
                for (v, m) in out.iter_mut().zip(mask) {
                    *v *= m;
                }
            }
            Last::Constrain(Constraint::NonNegative, Finish::Prox) => {
                out.iter_mut().for_each(|v| *v = relu(*v));
            }
            Last::Constrain(Constraint::NonNegative, Finish::Mask) => {
                out.iter_mut().for_each(|v| *v = indicator(*v > 0.0));
            }
            Last::Constrain(Constraint::Interval { low, high }, finish) => {
                let (low, high) = (low as f32, high as f32);
                for v in out {
                    *v = match finish {
                        Finish::Mask => indicator(*v > low && *v < high),
                        Finish::Prox if *v < low => low,
                        Finish::Prox if *v > high => high,
                        Finish::Prox => *v,
                    };
                }
            }
            Last::Constrain(Constraint::L1 { weight }, finish) => {
                let t = self.step * weight as f32;
                for v in out {
                    *v = match finish {
                        Finish::Mask => indicator(v.abs() > t),
                        Finish::Prox if *v < -t => *v + t,
                        Finish::Prox if *v > t => *v - t,
                        // Zero, and NaN for NaN.
                        Finish::Prox => *v * 0.0,
                    };
                }
            }
        }
    }
}
