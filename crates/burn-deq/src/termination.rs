//! When a solve is done.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};

use crate::config::{ConfigError, demand};

/// A norm over everything but the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Norm {
    /// The Euclidean norm.
    #[default]
    L2,
    /// The Euclidean norm divided by the square root of the number of elements: an absolute
    /// tolerance in it does not depend on the size of the state.
    Rms,
    /// The largest absolute value.
    Max,
}

/// Which parts of a state the rule must hold for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    crate = "burn::serde",
    rename_all = "snake_case",
    from = "Option<KnownBranches>"
)]
pub enum Branches {
    /// For the state as one vector: a branch that is a thousand times smaller than another has
    /// converged when the larger one has, whatever its own residual.
    #[default]
    Together,
    /// For each tensor that the state is made of, so that a branch of values near 1e-3 counts as
    /// much as one of values near 1e6. Reports and traces then hold the norms of the branch that is
    /// furthest from its tolerance. Nothing changes for a state of one tensor. A step makes one
    /// more pass over the state.
    Each,
}

/// The same as it is read: configurations that were written before there was a choice lack it.
#[derive(Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
enum KnownBranches {
    Together,
    Each,
}

impl From<Option<KnownBranches>> for Branches {
    fn from(known: Option<KnownBranches>) -> Self {
        match known {
            Some(KnownBranches::Each) => Self::Each,
            Some(KnownBranches::Together) | None => Self::Together,
        }
    }
}

/// How often a solve looks at its residuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Check {
    /// Every so many evaluations; 0 counts as 1. With 1, the default, one small tensor is read back
    /// to the host each step. With more, the steps in between are decided on the device, and a
    /// sample may do up to that many steps more than it needs.
    Every(usize),
    /// Never: the solve does exactly `max_steps` evaluations and reads nothing back, as graph
    /// capture and browsers ask for. The report then knows no residuals;
    /// [`Solution::residual`](crate::Solution::residual) holds them on the device.
    Never,
}

/// When a sample is done.
///
/// A sample has converged when |f(z) - z| <= absolute + relative * |f(z)|, unless its state grew
/// and its residual did not fall: where a state runs away, |f(z)| makes the right side as large as
/// one likes. So where |f(z)| exceeds the size of the first iterate, that is the larger of |f(z0)|
/// and |f(z0) - z0|, G times, and G is above 10, the residual must also be G / 10 times smaller
/// than the smallest one that was seen before the state grew (up to rounding error, which may take
/// a hundredth of that one). Otherwise the solve goes on, and where that stays so it ends as
/// [`Diverged`](crate::Status::Diverged).
///
/// Norms are those of the whole state, unless [`Branches::Each`] is chosen.
#[derive(Config, Debug, PartialEq)]
pub struct Termination {
    /// Relative tolerance. Default: 1e-4
    #[config(default = 1e-4)]
    pub relative: f64,
    /// Absolute tolerance, for fixed points at or near zero. Default: 1e-10
    #[config(default = 1e-10)]
    pub absolute: f64,
    /// The norm. Default: Euclidean
    #[config(default = "Norm::L2")]
    pub norm: Norm,
    /// Whether each branch of a state must meet the tolerances by itself. Default: the state as a
    /// whole
    #[config(default = "Branches::Together")]
    pub branches: Branches,
    /// Most evaluations of the map in one solve. Default: 50
    #[config(default = 50)]
    pub max_steps: usize,
    /// A sample has diverged when its residual exceeds its best one by this factor (and when its
    /// state ran away, see above). Default: 1e6
    #[config(default = 1e6)]
    pub divergence: f64,
    /// A sample has stalled when its best residual improved by less than 1 % over this many steps.
    /// Non-normal maps need patience: their residuals grow before they fall. Default: 100
    #[config(default = 100)]
    pub patience: usize,
    /// How often the residuals are looked at. Default: every step
    #[config(default = "Check::Every(1)")]
    pub check: Check,
}

impl Default for Termination {
    fn default() -> Self {
        Self::new()
    }
}

impl Termination {
    /// Checks every field; `path` goes before their names.
    pub(crate) fn validate(&self, path: &str) -> Result<(), ConfigError> {
        for (name, value) in [("relative", self.relative), ("absolute", self.absolute)] {
            let ok = value.is_finite() && value >= 0.0;
            demand(
                &format!("{path}.{name}"),
                value,
                ok,
                "0 or more, and finite",
            )?;
        }
        let field = format!("{path}.divergence");
        demand(
            &field,
            self.divergence,
            self.divergence > 1.0,
            "greater than 1",
        )
    }
}
