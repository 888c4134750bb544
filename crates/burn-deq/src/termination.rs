//! When a solve ends.

use burn::config::Config;
use burn::serde::{Deserialize, Serialize};

use crate::error::{ConfigError, demand};

/// A norm over all dimensions except the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Norm {
    /// The Euclidean norm.
    #[default]
    L2,
    /// The Euclidean norm divided by the square root of the number of elements. An absolute
    /// tolerance in this norm does not depend on the size of the state.
    Rms,
    /// The largest absolute value.
    Max,
}

/// Which parts of a state must meet the rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    crate = "burn::serde",
    rename_all = "snake_case",
    from = "Option<KnownBranches>"
)]
pub enum Branches {
    /// The state as one vector. A branch that is a thousand times smaller than another counts as
    /// converged when the larger one has converged, whatever its own residual.
    #[default]
    Together,
    /// Each tensor of the state, so that a branch of values near 1e-3 counts as much as one of
    /// values near 1e6. Reports and traces then hold the norms of the branch furthest from its
    /// tolerance. Nothing changes for a state of one tensor. A step makes one more pass over the
    /// state.
    Each,
}

/// The serialised form: configurations from before this choice existed lack the field.
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

/// How often a solve checks its residuals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Check {
    /// Every k evaluations; 0 counts as 1. With 1, the default, each step reads one small tensor
    /// back to the host. With more, the device decides the steps in between, and a sample may take
    /// up to k more steps than it needs.
    Every(usize),
    /// Never: the solve does exactly `max_steps` evaluations and reads nothing back, as graph
    /// capture and browsers require. The report then has no residuals;
    /// [`Solution::residual`](crate::Solution::residual) holds them on the device.
    Never,
}

/// When a sample is finished.
///
/// A sample has converged when |f(z) - z| <= absolute + relative * |f(z)|, unless its state grew
/// and its residual did not fall. Without this exception, a state that runs away would make the
/// right side arbitrarily large. Let S be the larger of |f(z0)| and |f(z0) - z0|, the size of the
/// first iterate. If |f(z)| = G S with G above 10, the residual must also be G / 10 times smaller
/// than the smallest one seen before the state grew (up to rounding error, which may reach a
/// hundredth of that residual). Until then the solve continues. If the condition is never met, it
/// ends as [`Diverged`](crate::Status::Diverged).
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
    /// Whether the state as a whole must meet the tolerances, or each branch separately. Default:
    /// the state as a whole
    #[config(default = "Branches::Together")]
    pub branches: Branches,
    /// Largest number of evaluations of the map in one solve. Default: 50
    #[config(default = 50)]
    pub max_steps: usize,
    /// A sample has diverged when its residual exceeds its best one by this factor (or when its
    /// state runs away, see above). Default: 1e6
    #[config(default = 1e6)]
    pub divergence: f64,
    /// A sample has stalled when its best residual improved by less than 1 % over this many steps.
    /// Non-normal maps need patience, because their residuals grow before they fall. Default: 100
    #[config(default = 100)]
    pub patience: usize,
    /// How often the residuals are checked. Default: every step
    #[config(default = "Check::Every(1)")]
    pub check: Check,
}

impl Default for Termination {
    fn default() -> Self {
        Self::new()
    }
}

impl Termination {
    /// Checks every field; `path` is the prefix of their names.
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
