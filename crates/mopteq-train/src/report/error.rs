//! Why a report could not be made.

use crate::crash::Crash;

/// The report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A plot could not be drawn.
    #[error("the report's plots cannot be drawn ({0})")]
    Plot(String),
    /// The device failed.
    #[error("the report's evaluation failed: {0}")]
    Device(String),
}

impl From<Crash> for ReportError {
    fn from(crash: Crash) -> Self {
        Self::Device(crash.message)
    }
}
