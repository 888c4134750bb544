//! Configurations that cannot be built.

/// A configuration that cannot be built. Every message names the field and what it must be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A count that must not be zero is zero.
    #[error("`{field}` is 0; it must be at least 1")]
    Zero {
        /// The field of the configuration.
        field: &'static str,
    },
    /// A number outside its range.
    #[error("`{field}` is {value}; it must be {expected}")]
    OutOfRange {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The values that are possible.
        expected: &'static str,
    },
    /// The finest branch cannot be halved often enough.
    #[error(
        "the finest branch is {height} x {width} pixels, but `branches` = {branches} needs both \
         sides to be divisible by {divisor}; change `branches`, `stem_stride` or `stem_padding`"
    )]
    Indivisible {
        /// Height of the finest branch.
        height: usize,
        /// Width of the finest branch.
        width: usize,
        /// Number of branches.
        branches: usize,
        /// 2^(branches - 1).
        divisor: usize,
    },
}
