//! The formula of a step: see [`step`](crate::step).

use burn::tensor::Tensor;

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

/// A proximal map. Each variant names the function that it belongs to.
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
    /// Each branch is coupled to at most this many of the branches after it.
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

/// What to compute from v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finish {
    /// prox(v).
    Prox,
    /// The derivative of prox at v.
    Mask,
}

impl StepFormula {
    /// The derivative of prox, computed from z+, as zeros and ones.
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

    /// Whether prox changes with its argument at this value, so that the mask is 1.
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
