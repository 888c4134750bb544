//! MOptEqs for pictures, and OptEqs, the case of one branch.

mod config;
mod lipschitz;
mod model;

pub use config::MOptEqsConfig;
pub(crate) use config::check_halving;
pub use model::MOptEqs;
