//! Settings of a solve. All of them serialise, so that a run can record what it did.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};

/// When a sample is done.
///
/// A sample has converged when |f(z) - z| <= absolute + relative * |f(z)|, in the Euclidean norm
/// over everything but the batch.
#[derive(Config, Debug, PartialEq)]
pub struct Termination {
    /// Relative tolerance. Default: 1e-4
    #[config(default = 1e-4)]
    pub relative: f64,
    /// Absolute tolerance, for fixed points at or near zero. Default: 1e-10
    #[config(default = 1e-10)]
    pub absolute: f64,
    /// Most evaluations of the map in one solve. Default: 50
    #[config(default = 50)]
    pub max_steps: usize,
    /// A sample has diverged when its residual exceeds its best one by this factor. Default: 1e6
    #[config(default = 1e6)]
    pub divergence: f64,
    /// A sample has stalled when its best residual improved by less than 1 % over this many steps.
    /// Default: 30
    #[config(default = 30)]
    pub patience: usize,
}

impl Default for Termination {
    fn default() -> Self {
        Self::new()
    }
}

/// Anderson acceleration of type II in difference form, for every sample on its own
/// (Walker and Ni 2011, doi:10.1137/10078356X).
///
/// With residuals r = f(z) - z, the last m differences dR and dF, and gamma the minimiser of
/// |r - dR gamma|^2 + regularization * sum_j |dR_j|^2 gamma_j^2:
///
/// z+ = f - dF gamma - (1 - damping) (r - dR gamma)
#[derive(Config, Debug, PartialEq)]
pub struct AndersonConfig {
    /// Differences kept, m. 0 gives plain iteration. Default: 6
    #[config(default = 6)]
    pub history: usize,
    /// Share of the residual that a step follows (the mixing parameter beta). Default: 1
    #[config(default = 1.0)]
    pub damping: f64,
    /// Tikhonov regularisation relative to each difference's own size, hence independent of the
    /// scale of z. Default: 1e-10; never below the rounding error of the Gram matrix.
    #[config(default = 1e-10)]
    pub regularization: f64,
    /// Weights whose absolute values add up to more than this are refused for a plain step, and
    /// the sample's history is dropped. Default: 1e4
    #[config(default = 1e4)]
    pub weight_cap: f64,
    /// When a step multiplies a sample's residual by more than this, it is taken back: the sample
    /// goes on with a plain step from the point before and an empty history. Default: 4
    #[config(default = 4.0)]
    pub safeguard: f64,
}

impl Default for AndersonConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// A method for z = f(z).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// z+ = z + damping (f(z) - z). For contractions; damping < 1 widens what converges.
    Plain {
        /// Share of the residual that a step follows; 1 is undamped.
        damping: f64,
    },
    /// Anderson acceleration: the default.
    Anderson(AndersonConfig),
    /// Conjugate gradients on (I - J) u = g, for affine maps whose I - J is symmetric positive
    /// definite (Hestenes and Stiefel 1952). Only for backward solves.
    ConjugateGradients,
}

impl Default for Method {
    fn default() -> Self {
        Self::Anderson(AndersonConfig::new())
    }
}

impl From<AndersonConfig> for Method {
    fn from(config: AndersonConfig) -> Self {
        Self::Anderson(config)
    }
}

/// A forward solve: a method and when to stop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", default)]
pub struct Solver {
    /// The method. Default: Anderson acceleration with history 6.
    pub method: Method,
    /// When a sample is done.
    pub termination: Termination,
}

impl Solver {
    /// Undamped plain iteration.
    pub fn plain() -> Self {
        Self {
            method: Method::Plain { damping: 1.0 },
            ..Self::default()
        }
    }

    /// Anderson acceleration with the given number of differences.
    pub fn anderson(history: usize) -> Self {
        Self {
            method: AndersonConfig::new().with_history(history).into(),
            ..Self::default()
        }
    }

    /// Conjugate gradients (backward solves only).
    pub fn conjugate_gradients() -> Self {
        Self {
            method: Method::ConjugateGradients,
            ..Self::default()
        }
    }

    /// The same method with this relative tolerance.
    pub fn with_relative(mut self, relative: f64) -> Self {
        self.termination.relative = relative;
        self
    }

    /// The same method with this absolute tolerance.
    pub fn with_absolute(mut self, absolute: f64) -> Self {
        self.termination.absolute = absolute;
        self
    }

    /// The same method with this limit on the evaluations of the map.
    pub fn with_max_steps(mut self, max_steps: usize) -> Self {
        self.termination.max_steps = max_steps;
        self
    }
}

/// How gradients pass through the equilibrium.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gradient {
    /// The exact gradient by the implicit function theorem: the backward pass solves
    /// u = J'u + g with this solver. `None` takes conjugate gradients for maps that declare a
    /// symmetric positive definite structure and Anderson acceleration for all others, with the
    /// tolerances of the forward solve.
    Implicit(Option<Solver>),
    /// Differentiates `steps` damped applications of f that start at the detached equilibrium
    /// (phantom gradient, Geng et al. 2021, arXiv:2111.05177). Inexact; needs no backward solve.
    /// One undamped step is the Jacobian-free gradient (Fung et al. 2021, arXiv:2103.12803).
    Phantom {
        /// Applications of f that are differentiated.
        steps: usize,
        /// Share of the residual that each of them follows.
        damping: f64,
    },
}

impl Default for Gradient {
    fn default() -> Self {
        Self::Implicit(None)
    }
}
