//! A step of proximal gradient descent on all branches at once, and its linearisation.
//!
//! With branches z_i, kernels W_i, injections c_i, and a scaled resampling Q_ij from the finer
//! branch of a pair to the coarser one:
//!
//! ```text
//! v  = z - step (q z - p c + g + sum lambda L z)        z+ = prox(v)
//! g  = W'W z                                            Kernel::Energy
//! g  = -W's'(W z + c)                                   Kernel::Potential
//! g  = W'(W z - c)                                      Kernel::Reconstruction
//! g  = E'G E z                                          Kernel::Gram
//! L z: the gradient of 1/2 |Q_ij z_i - z_j|^2
//! ```
//!
//! E brings every branch to the resolution of the first by scaled nearest up-sampling and stacks
//! their channels. G is one symmetric matrix for every pixel of the stack.
//!
//! The CPU's fast form computes a step sample by sample: two convolutions per branch and a few
//! passes over memory in the cache. The GPU's fast form takes one launch for all samples and
//! branches. It works on states packed as `[batch, n]`: these are the functions that end in
//! `_packed`. There is no portable form. A caller that gets `None` evaluates its objective term by
//! term.

use burn::tensor::Tensor;

use crate::{cpu, cube};

/// A non-decreasing elementwise function s'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// max(a, 0).
    Relu,
    /// a for a > 0 and slope * a elsewhere.
    LeakyRelu {
        /// Slope of the negative side.
        slope: f64,
    },
    /// ln(1 + e^a).
    Softplus,
    /// tanh(a).
    Tanh,
}

/// The operation between a kernel and its transpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kernel {
    /// Nothing: the gradient of 1/2 |W z|^2.
    Energy,
    /// An activation: the gradient of -1's(W z + c).
    Potential(Activation),
    /// The difference from c: the gradient of 1/2 |W z - c|^2.
    Reconstruction,
    /// G = D'D in place of a kernel and its transpose: the gradient of 1/2 |D E z|^2.
    Gram,
}

/// A proximal map. Variants name the function that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Prox {
    /// z >= 0.
    NonNegative,
    /// low <= z <= high.
    Interval {
        /// Smallest value of an element.
        low: f64,
        /// Largest value of an element.
        high: f64,
    },
    /// weight * |z|_1.
    L1 {
        /// Weight of the norm.
        weight: f64,
    },
    /// weight * sum of z, with z >= 0.
    Sparse {
        /// Weight of the sum.
        weight: f64,
    },
}

/// A coupling of branches, lambda/2 sum |Q_ij z_i - z_j|^2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coupling {
    /// lambda.
    pub strength: f64,
    /// Each branch is coupled to this number of branches after it.
    pub reach: usize,
}

impl Coupling {
    /// The pairs i < j among this number of branches.
    pub fn pairs(&self, branches: usize) -> impl Iterator<Item = (usize, usize)> {
        let reach = self.reach.min(branches);
        (0..branches).flat_map(move |i| (i + 1..branches.min(i + reach + 1)).map(move |j| (i, j)))
    }
}

/// The formula of a step: see the module documentation.
#[derive(Clone, Debug)]
pub struct StepFormula {
    /// q.
    pub quadratic: f64,
    /// Whether p is 1 and the injections have the shape of the state. Otherwise p is 0 and they
    /// have that of W z.
    pub proximity: bool,
    /// The operation between W and its transpose.
    pub kernel: Kernel,
    /// The couplings.
    pub couplings: Vec<Coupling>,
    /// The proximal map; `None` leaves v as it is.
    pub prox: Option<Prox>,
    /// The step.
    pub step: f64,
}

/// Everything except the state that a step depends on, one tensor per branch.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// W_i, `[hidden, channels, k, k]`; for [`Kernel::Gram`] only G, `[channels, channels, 1, 1]`
    /// with the channels of all branches.
    pub kernels: &'a [Tensor<4>],
    /// The same kernels and injections, prepared at their first use.
    pub prepared: &'a Prepared,
    /// c_i, `[batch, hidden or channels, height, width]`.
    pub injections: &'a [Tensor<4>],
}

/// Kernels and injections in the order in which the fast forms read them. They are made at first
/// use and shared by all copies.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub(crate) cpu: cpu::PreparedKernels,
    pub(crate) cube: cube::Prepared,
}

impl Prepared {
    /// The same kernels with other injections.
    pub fn with_other_injections(&self) -> Self {
        Self {
            cpu: self.cpu.clone(),
            cube: self.cube.with_other_injections(),
        }
    }

    /// For plain copies of tracked kernels and injections.
    pub fn plain(&self) -> Self {
        Self {
            cpu: Default::default(),
            cube: self.cube.clone(),
        }
    }
}

/// When a sample of a whole solve is finished, and how it is accelerated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveLimits {
    /// Relative and absolute tolerance: |f(z) - z| <= absolute + relative |f(z)|.
    pub tolerance: [f64; 2],
    /// Largest number of evaluations.
    pub max_steps: usize,
    /// Largest momentum of accelerated descent; 0 takes plain steps.
    pub momentum: f64,
    /// Whether a sample restarts when its momentum points uphill.
    pub restart: bool,
}

impl SolveLimits {
    /// Whether the tolerance is met, or the numbers are no numbers, from |f(z) - z|^2 and |f(z)|^2.
    pub(crate) fn met(&self, residual: f64, image: f64) -> bool {
        let [relative, absolute] = self.tolerance;
        let missed = residual.sqrt() > absolute + relative * image.sqrt();
        !missed || !(residual + image).is_finite()
    }

    pub(crate) fn sample(&self, steps: usize, residual: f64, image: f64) -> SolvedSample {
        SolvedSample {
            steps,
            residual: residual.sqrt(),
            image: image.sqrt(),
            met: (residual + image).is_finite() && self.met(residual, image),
        }
    }
}

/// The outcome of a whole solve for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolvedSample {
    /// Evaluations of the map.
    pub steps: usize,
    /// |f(z) - z|.
    pub residual: f64,
    /// |f(z)|.
    pub image: f64,
    /// Whether the tolerance was met.
    pub met: bool,
}

/// The outcome of a whole solve, `[batch, n]`.
#[derive(Clone, Debug)]
pub struct Solved {
    /// z, or u of the backward solve.
    pub state: Tensor<2>,
    /// f(z) of a forward solve.
    pub image: Tensor<2>,
    /// What each sample took.
    pub samples: Vec<SolvedSample>,
}

/// What to compute from v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finish {
    /// prox(v).
    Prox,
    /// The derivative of prox at v.
    Mask,
}

impl StepFormula {
    /// Whether there is a fast form for this state and these inputs.
    pub fn applies(&self, z: &[Tensor<4>], x: Inputs<'_>) -> bool {
        cpu::applies(self, z, x)
    }

    /// z+, from plain tensors. `None` if there is no fast form.
    ///
    /// # Shapes
    ///
    /// z and the result are one `[batch, channels, height, width]` per branch; [`Inputs`] states
    /// its shapes.
    pub fn step(&self, z: &[Tensor<4>], x: Inputs<'_>) -> Option<Vec<Tensor<4>>> {
        cpu::step(self, z, x, Finish::Prox)
    }

    /// z+ from a plain z, with gradients for kernels and injections. `value` is z+ if it is known.
    /// `None` if there is no fast form.
    ///
    /// # Shapes
    ///
    /// As [`step`](Self::step).
    pub fn tracked_step(
        &self,
        z: &[Tensor<4>],
        x: Inputs<'_>,
        value: Option<Vec<Tensor<4>>>,
    ) -> Option<Vec<Tensor<4>>> {
        cpu::tracked_step(self, z, x, value)
    }

    /// The derivative of prox at v, as zeros and ones in the shape of z. `None` if there is no fast
    /// form.
    pub fn mask(&self, z: &[Tensor<4>], x: Inputs<'_>) -> Option<Vec<Tensor<4>>> {
        cpu::step(self, z, x, Finish::Mask)
    }

    /// As [`mask`](Self::mask), from z+ in `values`.
    pub fn mask_of(&self, values: &[Tensor<4>]) -> Option<Vec<Tensor<4>>> {
        cpu::mask(self, values)
    }

    /// u -> (I - step H) u at z, where H is the Hessian of the smooth part. `None` if there is no
    /// fast form.
    pub fn linearise(
        &self,
        z: &[Tensor<4>],
        x: Inputs<'_>,
        mask: Option<&[Tensor<4>]>,
    ) -> Option<StepProduct> {
        Some(StepProduct(cpu::Product::new(self, z, x, mask)?))
    }

    /// Whether there is a fast form for packed states with these inputs.
    pub fn applies_packed(&self, x: Inputs<'_>) -> bool {
        cube::applies(self, x)
    }

    /// z+ from a plain z packed as `[batch, n]`.
    pub fn step_packed(&self, z: &Tensor<2>, x: Inputs<'_>) -> Option<Tensor<2>> {
        cube::step(self, z, x, Finish::Prox)
    }

    /// z+ from a packed z, with gradients for z, kernels and injections. `value` is z+ where it is
    /// known.
    pub fn attach_packed(
        &self,
        z: &Tensor<2>,
        x: Inputs<'_>,
        value: Option<&Tensor<2>>,
    ) -> Option<Tensor<2>> {
        cube::attach(self, z, x, value)
    }

    /// As [`linearise`](Self::linearise), at a plain packed z. `value` is z+ where it is known.
    pub fn linearise_packed(
        &self,
        z: &Tensor<2>,
        x: Inputs<'_>,
        value: Option<&Tensor<2>>,
    ) -> Option<PackedProduct> {
        let mask = match (self.prox, value) {
            (None, _) => None,
            (Some(_), Some(value)) => Some(self.mask_packed(value)),
            (Some(_), None) => Some(cube::step(self, z, x, Finish::Mask)?),
        };
        Some(PackedProduct(cube::Product::new(self, z, x, mask)?))
    }

    /// The derivative of prox from z+, as 0 and 1.
    pub(crate) fn mask_packed(&self, value: &Tensor<2>) -> Tensor<2> {
        let value = value.clone();
        match self.prox {
            None => value.ones_like(),
            Some(Prox::NonNegative | Prox::Sparse { .. }) => value.greater_elem(0.0).float(),
            Some(Prox::Interval { low, high }) => {
                let (low, high) = (low as f32, high as f32);
                value.clone().greater_elem(low).float() * value.lower_elem(high).float()
            }
            Some(Prox::L1 { .. }) => value.not_equal_elem(0.0).float(),
        }
    }

    /// The fixed point of the step from a plain z packed as `[batch, n]`, each sample by itself from
    /// start to end. `None` if there is no such form. The step must be a contraction with a step of
    /// at most the inverse of the gradient's Lipschitz constant.
    pub fn solve(&self, z: &Tensor<2>, x: Inputs<'_>, limits: &SolveLimits) -> Option<Solved> {
        cpu::solve(self, z, x, limits)
    }

    /// The solution of u = J'u + g, where J is the Jacobian of the step at the point where its packed
    /// value is `value`. Conditions as for [`solve`](Self::solve).
    pub fn solve_adjoint(
        &self,
        value: &Tensor<2>,
        x: Inputs<'_>,
        g: &Tensor<2>,
        limits: &SolveLimits,
    ) -> Option<Solved> {
        cpu::solve_adjoint(self, value, x, g, limits)
    }

    /// Whether the injections have the channels of the state, and not those of W z.
    pub(crate) fn injects_into_state(&self) -> bool {
        self.proximity
    }

    /// Whether the formula supports branches of these sizes. Of two coupled branches, one must be
    /// the finer one along both sides; for [`Kernel::Gram`] it is the first.
    pub(crate) fn fits(&self, sizes: &[[usize; 2]]) -> bool {
        let nested = |a: [usize; 2], b: [usize; 2]| (0..2).all(|d| a[d].is_multiple_of(b[d]));
        if self.kernel == Kernel::Gram && !sizes.iter().all(|size| nested(sizes[0], *size)) {
            return false;
        }
        self.couplings.iter().all(|c| {
            c.pairs(sizes.len())
                .all(|(i, j)| nested(sizes[i], sizes[j]) || nested(sizes[j], sizes[i]))
        })
    }

    /// The activation between W and its transpose, if there is one.
    pub(crate) fn activation(&self) -> Option<Activation> {
        match self.kernel {
            Kernel::Energy | Kernel::Reconstruction | Kernel::Gram => None,
            Kernel::Potential(activation) => Some(activation),
        }
    }

    /// The gradient with respect to step * (the argument of prox), from the gradient `u` with
    /// respect to a value of prox.
    pub(crate) fn pulled(&self, u: f32, value: f32) -> f32 {
        if self.moves(value) {
            u * self.step as f32
        } else {
            0.0
        }
    }

    /// Whether prox moves with its argument at this value, so that the mask is 1.
    #[inline(always)]
    pub(crate) fn moves(&self, value: f32) -> bool {
        match self.prox {
            None => true,
            Some(Prox::NonNegative | Prox::Sparse { .. }) => value > 0.0,
            Some(Prox::Interval { low, high }) => value > low as f32 && value < high as f32,
            Some(Prox::L1 { .. }) => value != 0.0,
        }
    }

    /// Whether the Hessian depends on z.
    pub(crate) fn has_slopes(&self) -> bool {
        matches!(self.kernel, Kernel::Potential(_))
    }
}

/// I - step H at a point, between masks.
#[derive(Clone, Debug)]
pub struct StepProduct(cpu::Product);

impl StepProduct {
    /// The product with u, which has the shape of z. `masked` says whether to mask before and
    /// after.
    pub fn apply(
        &self,
        formula: &StepFormula,
        u: &[Tensor<4>],
        x: Inputs<'_>,
        masked: [bool; 2],
    ) -> Option<Vec<Tensor<4>>> {
        self.0.apply(formula, u, x, masked)
    }
}

/// I - step H at a packed point, between masks.
#[derive(Clone, Debug)]
pub struct PackedProduct(cube::Product);

impl PackedProduct {
    /// The product with u `[batch, n]`, masked before and after as asked.
    pub fn apply(
        &self,
        formula: &StepFormula,
        u: &Tensor<2>,
        x: Inputs<'_>,
        masked: [bool; 2],
    ) -> Option<Tensor<2>> {
        self.0.apply(formula, u, x, masked)
    }

    /// The mask, if the formula has a proximal map.
    pub fn mask(&self) -> Option<&Tensor<2>> {
        self.0.mask()
    }
}
