//! The terms that the kernels can fuse, by their settings.

use burn::serde::{Deserialize, Serialize};

/// Terms that are evaluated together, instead of one by one, if the device allows it.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Formula {
    /// The term [`Quadratic`](super::Quadratic).
    Quadratic {
        /// Its factor.
        weight: f64,
    },
    /// The term [`Proximity`](super::Proximity).
    Proximity,
    /// The term [`KernelEnergy`](super::KernelEnergy).
    KernelEnergy,
    /// The term [`ActivationPotential`](super::ActivationPotential) with one of the crate's
    /// activations.
    ActivationPotential(ActivationConfig),
    /// The term [`Reconstruction`](super::Reconstruction).
    Reconstruction,
    /// The term [`PatchReconstruction`](super::PatchReconstruction).
    PatchReconstruction,
    /// The term [`Coupling`](super::Coupling).
    Coupling {
        /// lambda.
        strength: f64,
        /// The pairs.
        pairs: Pairs,
    },
}

/// The activations that the crate provides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum ActivationConfig {
    /// max(a, 0), s(a) = 1/2 max(a, 0)^2. The default.
    #[default]
    Relu,
    /// a for a > 0, otherwise slope * a.
    LeakyRelu {
        /// Slope of the negative side, 0 to 1.
        slope: f64,
    },
    /// ln(1 + e^a); s(a) = -Li_2(-e^a).
    Softplus,
    /// tanh(a); s(a) = ln cosh(a).
    Tanh,
}

/// The pairs of branches that a [`Coupling`](super::Coupling) joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Pairs {
    /// Every branch with every other. The default.
    #[default]
    All,
    /// Every branch with the next.
    Neighbours,
}
