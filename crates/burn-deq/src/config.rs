//! Settings of a solve. All of them can be serialised, so a run can record them.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};

use crate::error::{ConfigError, demand};
use crate::solver::step::Custom;
use crate::termination::{Branches, Check, Norm, Termination};

/// Which least-squares problem the weights of Anderson acceleration solve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum AndersonType {
    /// dZ'(r - dR gamma) = 0: the secant condition on the Jacobian ("good Broyden").
    #[serde(rename = "type_1")]
    I,
    /// min |r - dR gamma|: the secant condition on its inverse ("bad Broyden").
    #[default]
    #[serde(rename = "type_2")]
    II,
}

/// Anderson acceleration in difference form, separately for every sample (Walker and Ni 2011,
/// doi:10.1137/10078356X; types after Fang and Saad 2009, doi:10.1002/nla.617).
///
/// With residuals r = f(z) - z, the last m differences dZ, dR and dF = dZ + dR, and weights gamma
/// (see [`AndersonType`]) whose system is regularised relative to each difference's own size:
///
/// z+ = f - dF gamma - (1 - damping) (r - dR gamma)
#[derive(Config, Debug, PartialEq)]
pub struct AndersonConfig {
    /// History size m, the number of differences kept. 0 gives plain iteration. Default: 6
    #[config(default = 6)]
    pub history: usize,
    /// Which least-squares problem. Default: type II
    #[config(default = "AndersonType::II")]
    pub kind: AndersonType,
    /// Fraction of the residual that a step takes (relaxation, the mixing parameter beta), from 0
    /// to 2. Default: 1
    #[config(default = 1.0)]
    pub damping: f64,
    /// Tikhonov regularisation relative to each difference's own size, so it is independent of the
    /// scale of z. Default: 1e-10; never below the rounding error of the Gram matrix.
    #[config(default = 1e-10)]
    pub regularization: f64,
    /// Largest sum of absolute weights. If the weights exceed it, the step is plain and the
    /// sample's history is dropped. Never above a tenth of the inverse rounding error of the
    /// state's type (8e5 in f32), because the weights multiply rounding errors. Default: 1e8
    #[config(default = 1e8)]
    pub weight_cap: f64,
    /// If a step multiplies a sample's residual by more than this factor, or makes it NaN, the step
    /// is rejected. The sample continues with a plain step from the previous iterate and an empty
    /// history. Default: 4
    #[config(default = 4.0)]
    pub safeguard: f64,
    /// Accelerates every `period` steps and takes plain steps in between (alternating or periodic
    /// Anderson: Banerjee, Suryanarayana and Pask 2016, doi:10.1016/j.cplett.2016.01.033).
    /// Default: 1
    #[config(default = 1)]
    pub period: usize,
    /// Drops the history after this many steps. Default: never
    pub restart: Option<usize>,
}

impl Default for AndersonConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Broyden's good method for r(z) = f(z) - z = 0, separately for every sample. The inverse Jacobian
/// is kept as -I plus `history` rank-one terms (Broyden 1965,
/// doi:10.1090/S0025-5718-1965-0198670-6; for equilibrium networks Bai et al. 2019).
#[derive(Config, Debug, PartialEq)]
pub struct BroydenConfig {
    /// Rank-one terms kept. When all slots are full, all terms are dropped: each term builds on
    /// those before it, so the oldest cannot be dropped alone. 0 gives plain iteration. Default: 20
    #[config(default = 20)]
    pub history: usize,
    /// Fraction of the quasi-Newton step that is taken. Default: 1
    #[config(default = 1.0)]
    pub damping: f64,
    /// If a step multiplies a sample's residual by more than this factor, or makes it NaN, the step
    /// is rejected. The sample continues with a plain step from the previous iterate and no terms.
    /// Broyden's method learns from steps that miss, so the default is generous. Default: 1000
    #[config(default = 1000.0)]
    pub safeguard: f64,
}

impl Default for BroydenConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Accelerated proximal gradient descent (FISTA: Beck and Teboulle 2009, doi:10.1137/080716542),
/// separately for every sample, for maps that are a proximal gradient step with a step size of at
/// most the inverse of the gradient's Lipschitz constant: their Jacobians are symmetric and have no
/// negative eigenvalues.
///
/// y+ = f(y) + beta (f(y) - f(y-)), where f(y-) is the previous value of the map. beta is FISTA's
/// (t - 1) / t+, and at most the best constant momentum for a map that contracts by q,
/// (1 - sqrt(1 - q)) / (1 + sqrt(1 - q)). q is the Rayleigh quotient of the Jacobian along the last
/// displacement of y; where the Jacobian shows negative eigenvalues, steps are plain. A sample
/// restarts with t = 1 when its momentum points uphill (O'Donoghue and Candes 2015,
/// doi:10.1007/s10208-013-9150-3).
#[derive(Config, Debug, PartialEq)]
pub struct AcceleratedConfig {
    /// Largest momentum beta, from 0 (plain iteration) to below 1. Default: 0.98
    #[config(default = 0.98)]
    pub momentum: f64,
    /// Whether a sample restarts when its momentum points uphill. Default: true
    #[config(default = true)]
    pub restart: bool,
}

impl Default for AcceleratedConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// A method for z = f(z).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// z+ = z + damping (f(z) - z). For contractions; damping < 1 makes more maps converge.
    Plain {
        /// Fraction of the residual that a step takes; 1 is undamped.
        damping: f64,
    },
    /// Anderson acceleration: the default.
    Anderson(AndersonConfig),
    /// Limited-memory Broyden.
    Broyden(BroydenConfig),
    /// Accelerated proximal gradient descent.
    Accelerated(AcceleratedConfig),
    /// Your own solver. It cannot be serialised.
    #[serde(skip)]
    Custom(Custom),
}

impl Default for Method {
    fn default() -> Self {
        Self::Anderson(AndersonConfig::new())
    }
}

/// Converts each method's settings to the method.
macro_rules! methods {
    ($($variant:ident: $settings:ty),+) => {$(
        impl From<$settings> for Method {
            fn from(settings: $settings) -> Self {
                Self::$variant(settings)
            }
        }
    )+};
}

methods! {
    Anderson: AndersonConfig,
    Broyden: BroydenConfig,
    Accelerated: AcceleratedConfig,
    Custom: Custom
}

impl From<Custom> for Solver {
    fn from(custom: Custom) -> Self {
        Method::from(custom).into()
    }
}

/// A method for the linear system u = J u + g of the backward pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinearMethod {
    /// Any fixed-point method.
    FixedPoint(Method),
    /// Conjugate gradients (Hestenes and Stiefel 1952): I - J symmetric positive definite.
    ConjugateGradients,
    /// MINRES (Paige and Saunders 1975, doi:10.1137/0712047): I - J symmetric.
    Minres,
}

impl<M: Into<Method>> From<M> for LinearMethod {
    fn from(method: M) -> Self {
        Self::FixedPoint(method.into())
    }
}

/// A solve: a method and when to stop. `Solver` is for fixed points, [`LinearSolver`] for the
/// linear system of the backward pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", default)]
pub struct SolverOf<M: Default> {
    /// The method. Default: Anderson acceleration with history 6.
    pub method: M,
    /// When a sample is finished.
    pub termination: Termination,
    /// Whether the report keeps the residual of every sample at every check. Default: no
    pub trace: bool,
}

/// A solver for z = f(z).
pub type Solver = SolverOf<Method>;

/// A solver for u = J u + g.
pub type LinearSolver = SolverOf<LinearMethod>;

impl Default for LinearMethod {
    fn default() -> Self {
        Self::FixedPoint(Method::default())
    }
}

impl Solver {
    /// Undamped plain iteration.
    pub fn plain() -> Self {
        Self::damped(1.0)
    }

    /// Plain iteration with this damping: the fraction of the residual that a step takes.
    pub fn damped(damping: f64) -> Self {
        Method::Plain { damping }.into()
    }

    /// Anderson acceleration with the given history size.
    pub fn anderson(history: usize) -> Self {
        Method::from(AndersonConfig::new().with_history(history)).into()
    }

    /// Broyden's method with the given number of rank-one terms.
    pub fn broyden(history: usize) -> Self {
        Method::from(BroydenConfig::new().with_history(history)).into()
    }

    /// Accelerated proximal gradient descent, for maps that are a proximal gradient step.
    pub fn accelerated() -> Self {
        Method::from(AcceleratedConfig::new()).into()
    }
}

impl LinearSolver {
    /// Conjugate gradients, for maps that declare
    /// [`SymmetricPositiveDefinite`](crate::Structure::SymmetricPositiveDefinite).
    pub fn conjugate_gradients() -> Self {
        LinearMethod::ConjugateGradients.into()
    }

    /// MINRES, for maps that declare a symmetric Jacobian.
    pub fn minres() -> Self {
        LinearMethod::Minres.into()
    }
}

impl<M: Default> From<M> for SolverOf<M> {
    fn from(method: M) -> Self {
        Self {
            method,
            ..Self::default()
        }
    }
}

impl From<Solver> for LinearSolver {
    fn from(solver: Solver) -> Self {
        Self {
            method: solver.method.into(),
            termination: solver.termination,
            trace: solver.trace,
        }
    }
}

impl<M: Default> SolverOf<M> {
    /// The same solver with this relative tolerance.
    pub fn with_relative(mut self, relative: f64) -> Self {
        self.termination.relative = relative;
        self
    }

    /// The same solver with this absolute tolerance.
    pub fn with_absolute(mut self, absolute: f64) -> Self {
        self.termination.absolute = absolute;
        self
    }

    /// The same solver with this limit on the evaluations of the map.
    pub fn with_max_steps(mut self, max_steps: usize) -> Self {
        self.termination.max_steps = max_steps;
        self
    }

    /// The same solver with tolerances in this norm.
    pub fn with_norm(mut self, norm: Norm) -> Self {
        self.termination.norm = norm;
        self
    }

    /// The same solver with tolerances for these parts of the state.
    pub fn with_branches(mut self, branches: Branches) -> Self {
        self.termination.branches = branches;
        self
    }

    /// The same solver with this frequency of residual checks.
    pub fn with_check(mut self, check: Check) -> Self {
        self.termination.check = check;
        self
    }

    /// The same solver with exactly this many evaluations and no read-back to the host.
    pub fn with_fixed_steps(self, steps: usize) -> Self {
        self.with_max_steps(steps).with_check(Check::Never)
    }

    /// The same solver with the residuals of every check in the report.
    pub fn with_trace(mut self) -> Self {
        self.trace = true;
        self
    }
}

/// Where the backward solve starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdjointStart {
    /// At the incoming gradient g, the first term of the Neumann series. Conjugate gradients and
    /// MINRES start at zero, where the residual is g. A vector given to
    /// [`Equilibrium::solve_from`](crate::Equilibrium::solve_from) takes precedence.
    #[default]
    Gradient,
    /// At -B'g, where B is the final inverse Jacobian of the forward Broyden solve (SHINE: Ramzi et
    /// al. 2022, arXiv:2106.00553), or of your own solver, if it has one
    /// ([`Step::inverse_transposed`](crate::solver::Step::inverse_transposed)). Same as `Gradient`
    /// after other forward solves. The forward solve freezes no sample, so that all terms are kept.
    BroydenFactors,
}

/// The exact backward pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", default)]
pub struct Implicit {
    /// Solver for u = J'u + g. `None` chooses by the map's declared [`Structure`](crate::Structure)
    /// (conjugate gradients, MINRES, or otherwise Anderson acceleration) and uses the termination
    /// of the forward solve.
    pub solver: Option<LinearSolver>,
    /// Where it starts.
    pub start: AdjointStart,
}

/// How gradients pass through the equilibrium.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Gradient {
    /// The exact gradient by the implicit function theorem: the backward pass solves
    /// u = J'u + g.
    Implicit(Implicit),
    /// u = g + J'g + ... + J'^k g: the Neumann series of the exact gradient, truncated after k
    /// products.
    Neumann {
        /// Products with J'.
        terms: usize,
    },
    /// Differentiates `steps` damped applications of f that start at the detached equilibrium
    /// (phantom gradient, Geng et al. 2021, arXiv:2111.05177). Inexact; needs no backward solve.
    Phantom {
        /// Differentiated applications of f.
        steps: usize,
        /// Share of the residual that each of them follows.
        damping: f64,
    },
    /// Differentiates one application of f at the detached equilibrium (Jacobian-free: Fung et
    /// al. 2021, arXiv:2103.12803). Inexact.
    OneStep,
    /// No solver: damped steps from the initial state, all on the tape. Memory grows with their
    /// number, and the initial state gets a gradient, too. Useful for weight-tied pretraining and
    /// as a reference.
    Unrolled {
        /// Applications of f.
        steps: usize,
        /// Share of the residual that each of them follows.
        damping: f64,
    },
}

impl Default for Gradient {
    fn default() -> Self {
        Self::Implicit(Implicit::default())
    }
}

impl Gradient {
    /// The exact gradient by this solver.
    pub fn implicit(solver: impl Into<LinearSolver>) -> Self {
        Self::Implicit(Implicit {
            solver: Some(solver.into()),
            start: AdjointStart::default(),
        })
    }
}

/// Whether finished samples leave the batch, so that the map is evaluated on the others only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Freezing {
    /// All samples stay in the batch until the last one is finished. Shapes do not change.
    Off,
    /// If the map declares [independent samples](crate::FixedPointMap::independent_samples).
    #[default]
    Declared,
    /// Always: the caller guarantees independence for a map that cannot declare it, such as a
    /// closure.
    Assumed,
}

fn demand_damping(field: &str, value: f64) -> Result<(), ConfigError> {
    let ok = value > 0.0 && value <= 2.0;
    demand(field, value, ok, "above 0 and at most 2")
}

impl Method {
    /// Checks every field; `path` is the prefix of their names.
    pub(crate) fn validate(&self, path: &str) -> Result<(), ConfigError> {
        let name = |field: &str| format!("{path}.{field}");
        let safeguard = |value: f64| {
            demand(
                &name("safeguard"),
                value,
                value >= 1.0,
                "1 or more (infinite turns it off)",
            )
        };
        match self {
            Self::Plain { damping } => demand_damping(&name("damping"), *damping),
            Self::Anderson(c) => {
                demand_damping(&name("damping"), c.damping)?;
                let ok = c.regularization >= 0.0 && c.regularization.is_finite();
                demand(
                    &name("regularization"),
                    c.regularization,
                    ok,
                    "0 or more, and finite",
                )?;
                demand(
                    &name("weight_cap"),
                    c.weight_cap,
                    c.weight_cap > 0.0,
                    "positive",
                )?;
                demand(&name("period"), c.period as f64, c.period > 0, "at least 1")?;
                if let Some(restart) = c.restart {
                    demand(&name("restart"), restart as f64, restart > 0, "at least 1")?;
                }
                safeguard(c.safeguard)
            }
            Self::Broyden(c) => {
                demand_damping(&name("damping"), c.damping)?;
                safeguard(c.safeguard)
            }
            Self::Accelerated(c) => {
                let ok = (0.0..1.0).contains(&c.momentum);
                demand(&name("momentum"), c.momentum, ok, "0 or more, and below 1")
            }
            Self::Custom(_) => Ok(()),
        }
    }
}

impl Gradient {
    /// Checks every field; `path` is the prefix of their names.
    pub(crate) fn validate(&self, path: &str) -> Result<(), ConfigError> {
        match self {
            Self::Implicit(Implicit {
                solver: Some(solver),
                ..
            }) => {
                solver
                    .termination
                    .validate(&format!("{path}.termination"))?;
                match &solver.method {
                    LinearMethod::FixedPoint(method) => method.validate(&format!("{path}.method")),
                    _ => Ok(()),
                }
            }
            Self::Phantom { steps, damping } | Self::Unrolled { steps, damping } => {
                let field = format!("{path}.steps");
                demand(&field, *steps as f64, *steps > 0, "at least 1")?;
                demand_damping(&format!("{path}.damping"), *damping)
            }
            _ => Ok(()),
        }
    }
}
