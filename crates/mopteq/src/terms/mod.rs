//! Terms of a hidden objective.
//!
//! | term | value of a sample | eigenvalues of the Hessian |
//! |---|---|---|
//! | [`Quadratic`] | w/2 \|z\|^2 | w |
//! | [`Proximity`] | 1/2 \|z - c\|^2 | 1 |
//! | [`Reconstruction`] | 1/2 \|Wz - c\|^2 | 0 to \|\|W\|\|^2 |
//! | [`JointReconstruction`] | 1/2 \|g - sum E_i D_i z_i\|^2 | 0 to branches times \|\|D\|\|^2 |
//! | [`PatchReconstruction`] | the same, patch by patch | 0 to \|\|D\|\|^2 |
//! | [`KernelEnergy`] | 1/2 \|Wz\|^2 | 0 to \|\|W\|\|^2 |
//! | [`ActivationPotential`] | -1's(Wz + c) | -\|\|W\|\|^2 to 0 |
//! | [`Coupling`] | lambda/2 sum \|Q_ij z_i - z_j\|^2 | 0 to lambda times that of the graph |
//! | [`Smoothness`] | alpha/2 \|grad z\|^2 | 0 to 8 alpha |
//! | [`Diversity`] | beta/2 sum HSIC(z_i, z_j) | not bounded |
//! | [`ByValue`] | the value of an [`Energy`] | as declared |
//!
//! A custom term provides its value and its gradient; its Hessian then comes from autodiff:
//!
//! ```
//! use burn::tensor::Tensor;
//! use mopteq::{Branches, Context, Curvature, Setting, Term};
//!
//! /// 1/4 sum of z^4: convex, but not smooth.
//! #[derive(Debug)]
//! struct Quartic;
//!
//! impl Term for Quartic {
//!     fn name(&self) -> &str {
//!         "quartic"
//!     }
//!     fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
//!         let parts = z.iter().map(|z| z.clone().powi_scalar(4).mean_dims(&[1, 2, 3]));
//!         parts.map(|p| p.squeeze_dims(&[1, 2, 3])).reduce(|a, b| a + b).unwrap()
//!     }
//!     fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
//!         let n = |z: &Tensor<4>| z.dims()[1..].iter().product::<usize>() as f64;
//!         z.iter().map(|z| z.clone().powi_scalar(3) * (4.0 / n(z))).collect()
//!     }
//!     fn curvature(&self, _setting: &Setting) -> Curvature {
//!         Curvature::new(0.0, f64::INFINITY)
//!     }
//! }
//! ```

mod activation;
mod by_value;
mod coding;
mod coupling;
mod diversity;
mod formula;
mod quadratic;
mod smoothness;

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;

pub use activation::{Activation, ActivationConfig, ActivationPotential};
pub use by_value::{ByValue, Energy};
pub use coding::{JointReconstruction, PatchReconstruction};
pub use coupling::{Coupling, Pairs};
pub use diversity::Diversity;
pub use formula::Formula;
pub(crate) use formula::step_formula;
pub use quadratic::{KernelEnergy, Proximity, Quadratic, Reconstruction};
pub use smoothness::Smoothness;

use crate::context::{Branches, Context, add, inner};
use crate::graph::{Builder, Combination, Operands, Value};

/// The Hessian of a term at a point: u -> H u, branch by branch in the shape of the state.
pub type Hessian = Box<dyn Fn(&Branches) -> Branches + Send>;

/// The data that the guarantees of a term may depend on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Number of branches.
    pub branches: usize,
    /// Bound on the norm of the block operator W.
    pub kernel_norm: f64,
}

/// Bounds on the eigenvalues of a Hessian, valid at every point; infinite without a bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Curvature {
    /// Lower bound on all eigenvalues.
    pub lower: f64,
    /// Upper bound on all eigenvalues.
    pub upper: f64,
}

impl Curvature {
    /// Nothing is guaranteed.
    pub const UNKNOWN: Self = Self::new(f64::NEG_INFINITY, f64::INFINITY);

    /// Eigenvalues between `lower` and `upper`.
    pub const fn new(lower: f64, upper: f64) -> Self {
        Self { lower, upper }
    }

    /// Whether the term is convex.
    pub fn is_convex(&self) -> bool {
        self.lower >= 0.0
    }

    /// mu > 0 for which G - mu/2 |z|^2 is convex, if it exists.
    pub fn strong_convexity(&self) -> Option<f64> {
        (self.lower > 0.0).then_some(self.lower)
    }

    /// The Lipschitz constant of the gradient, if it is bounded.
    pub fn smoothness(&self) -> Option<f64> {
        let constant = self.lower.abs().max(self.upper.abs());
        constant.is_finite().then_some(constant)
    }
}

impl std::ops::Add for Curvature {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self::new(self.lower + other.lower, self.upper + other.upper)
    }
}

/// A term of a hidden objective over a multi-branch state.
///
/// Samples do not mix: sample i of every result depends only on sample i of z and c.
pub trait Term: Debug + Send + Sync {
    /// The term's name in reports.
    fn name(&self) -> &str;

    /// Value for every sample, `[batch]`.
    fn value(&self, z: &Branches, x: &Context) -> Tensor<1>;

    /// Gradient with respect to z, in the shape of z, in differentiable operations, because the
    /// parameters in `x` get their gradients through it. [`ByValue`] computes a gradient from the
    /// value alone, for terms without parameters.
    fn gradient(&self, z: &Branches, x: &Context) -> Branches;

    /// The (generalised) Hessian at z, which is symmetric. The arguments are plain tensors. With
    /// `None`, autodiff of the gradient computes it: see [`hessian`].
    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        let _ = (z, x);
        None
    }

    /// Bounds on the eigenvalues of the Hessian, valid at every z. A wrong bound gives a step that
    /// is too large or a stalled backward solve.
    fn curvature(&self, setting: &Setting) -> Curvature {
        let _ = setting;
        Curvature::UNKNOWN
    }

    /// How fast the gradient can change with the injections c: a Lipschitz constant for fixed z, in
    /// Euclidean norms, valid at every z. Without it, an equilibrium has no certificate.
    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        let _ = setting;
        None
    }

    /// The term's formula, if it is one of [`Formula`]. On the CPU, objectives that consist of such
    /// terms are evaluated as a whole.
    fn formula(&self) -> Option<Formula> {
        None
    }

    /// The gradient as operations of a graph, one sum per branch. Without them, a network with this
    /// term cannot be exported as a graph.
    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let _ = (graph, z, x);
        None
    }
}

/// The Hessian of a term at z: its own, or otherwise H u = d<gradient(z), u>/dz by autodiff, at one
/// backward pass per product.
pub fn hessian(term: &Arc<dyn Term>, z: &Branches, x: &Context) -> Hessian {
    term.hessian(z, x).unwrap_or_else(|| {
        let (term, z, x) = (term.clone(), z.clone(), x.clone());
        Box::new(move |u| by_value::autodiff(&z, |z| inner(&term.gradient(z, &x), u)))
    })
}

/// A sum of terms, itself a term.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    terms: Vec<Arc<dyn Term>>,
}

impl Sum {
    /// The sum of these terms.
    pub fn new(terms: Vec<Arc<dyn Term>>) -> Self {
        Self { terms }
    }

    /// The terms.
    pub fn terms(&self) -> &[Arc<dyn Term>] {
        &self.terms
    }
}

impl Term for Sum {
    fn name(&self) -> &str {
        "sum"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        let parts = self.terms.iter().map(|t| t.value(z, x));
        parts
            .reduce(|a, b| a + b)
            .unwrap_or_else(|| Tensor::zeros([z[0].dims()[0]], (&z[0].device(), z[0].dtype())))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        let parts = self.terms.iter().map(|t| t.gradient(z, x));
        parts.reduce(add).unwrap_or_else(|| zeros_like(z))
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        let parts: Vec<Hessian> = self.terms.iter().map(|t| hessian(t, z, x)).collect();
        Some(Box::new(move |u| {
            let products = parts.iter().map(|h| h(u));
            products.reduce(add).unwrap_or_else(|| zeros_like(u))
        }))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        self.terms
            .iter()
            .map(|t| t.curvature(setting))
            .fold(Curvature::new(0.0, 0.0), |a, b| a + b)
    }

    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        self.terms.iter().map(|t| t.injection_gain(setting)).sum()
    }
}

fn zeros_like(z: &Branches) -> Branches {
    z.iter().map(Tensor::zeros_like).collect()
}
