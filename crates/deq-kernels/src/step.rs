//! A step of proximal gradient descent on all branches at once, and its linearisation.
//!
//! With branches z_i, kernels W_i, injections c_i, and a scaled resampling Q_ij from the finer
//! branch of a pair to the coarser one:
//!
//! ```text
//! v  = z - step (q z - p c + g + sum lambda L z)        z+ = prox(v)
//! g  = W'W z                                            Kernel::Energy
//! g  = -W's'(W z + c)                                   Kernel::Potential
//! L z: the gradient of 1/2 |Q_ij z_i - z_j|^2
//! ```
//!
//! The fast form computes a step sample by sample: two convolutions per branch and a few passes
//! over memory in the cache. There is no portable form. A caller that gets `None` evaluates its
//! objective term by term.

use burn::tensor::Tensor;

use crate::cpu;
pub use crate::cpu::PreparedKernels;

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
    /// W_i, `[hidden, channels, k, k]`.
    pub kernels: &'a [Tensor<4>],
    /// The same kernels, prepared at their first use.
    pub prepared: &'a PreparedKernels,
    /// c_i, `[batch, hidden or channels, height, width]`.
    pub injections: &'a [Tensor<4>],
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

    /// Whether the injections have the channels of the state, and not those of W z.
    pub(crate) fn injects_into_state(&self) -> bool {
        self.proximity
    }

    /// Whether the couplings support branches of these sizes: of any two, one must be the finer one
    /// along both sides.
    pub(crate) fn fits(&self, sizes: &[[usize; 2]]) -> bool {
        let nested = |a: [usize; 2], b: [usize; 2]| (0..2).all(|d| a[d].is_multiple_of(b[d]));
        self.couplings.iter().all(|c| {
            c.pairs(sizes.len())
                .all(|(i, j)| nested(sizes[i], sizes[j]) || nested(sizes[j], sizes[i]))
        })
    }

    /// The activation between W and its transpose, if there is one.
    pub(crate) fn activation(&self) -> Option<Activation> {
        match self.kernel {
            Kernel::Energy => None,
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
            Some(Prox::NonNegative) => value > 0.0,
            Some(Prox::Interval { low, high }) => value > low as f32 && value < high as f32,
            Some(Prox::L1 { .. }) => value != 0.0,
        }
    }

    /// Whether the Hessian depends on z.
    pub(crate) fn has_slopes(&self) -> bool {
        self.kernel != Kernel::Energy
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
