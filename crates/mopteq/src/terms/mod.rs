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
//! use mopteq::terms::{Curvature, Setting, Term};
//! use mopteq::{Branches, Context};
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
mod fused;
mod quadratic;
mod smoothness;
mod term;

use std::sync::Arc;

use burn::tensor::Tensor;

pub use activation::{Activation, ActivationPotential};
pub use by_value::{ByValue, Energy};
pub use coding::{JointReconstruction, PatchReconstruction};
pub use coupling::Coupling;
pub use diversity::Diversity;
pub use formula::{ActivationConfig, Formula, Pairs};
pub(crate) use fused::step_formula;
pub use quadratic::{KernelEnergy, Proximity, Quadratic, Reconstruction};
pub use smoothness::Smoothness;
use term::zeros_like;
pub use term::{Curvature, Hessian, Setting, Term};

use crate::context::{Branches, Context, add, inner};

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
