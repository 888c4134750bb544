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

use crate::formula::Finish;
pub use crate::formula::{Activation, Coupling, Kernel, Prox, StepFormula};
pub use crate::inputs::{Inputs, Prepared};
pub use crate::solve::{SolveLimits, Solved, SolvedSample};
use crate::{cpu, cube};

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

    /// z+ from a plain z, with gradients for kernels and injections. `value` is z+, if known.
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

    /// Like [`mask`](Self::mask), from z+ in `values`.
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

    /// z+ from a packed z, with gradients for z, kernels and injections. `value` is z+, if known.
    pub fn attach_packed(
        &self,
        z: &Tensor<2>,
        x: Inputs<'_>,
        value: Option<&Tensor<2>>,
    ) -> Option<Tensor<2>> {
        cube::attach(self, z, x, value)
    }

    /// Like [`linearise`](Self::linearise), at a plain packed z. `value` is z+, if known.
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

    /// The fixed point of the step from a plain z packed as `[batch, n]`, with each sample solved
    /// separately from start to end. `None` if there is no such form. The step must be a
    /// contraction with a step size of at most the inverse of the gradient's Lipschitz constant.
    pub fn solve(&self, z: &Tensor<2>, x: Inputs<'_>, limits: &SolveLimits) -> Option<Solved> {
        cpu::solve(self, z, x, limits)
    }

    /// The solution of u = J'u + g, where J is the Jacobian of the step at the point where its
    /// packed value is `value`. The conditions are those of [`solve`](Self::solve).
    pub fn solve_adjoint(
        &self,
        value: &Tensor<2>,
        x: Inputs<'_>,
        g: &Tensor<2>,
        limits: &SolveLimits,
    ) -> Option<Solved> {
        cpu::solve_adjoint(self, value, x, g, limits)
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
    /// The product with u `[batch, n]`, masked before and after as requested.
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
