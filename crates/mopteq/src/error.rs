//! Configurations that cannot be built.

/// A configuration that cannot be built. Every message names the field and its valid values.
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
        /// The valid values.
        expected: &'static str,
    },
    /// The finest branch cannot be halved often enough.
    #[error(
        "the finest branch is {height} x {width} pixels, but `branches` = {branches} needs both \
         sides to be divisible by {divisor}; change `branches`, `stem.stride` or `stem.padding`"
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
    /// A list has the wrong length.
    #[error("`{field}` has {found} entries; it must have {expected}, one per branch")]
    Length {
        /// The field of the configuration.
        field: &'static str,
        /// Its length.
        found: usize,
        /// The required length.
        expected: usize,
    },
    /// Two branches whose resolutions are not nested.
    #[error(
        "`{field}`: branches {first} and {second} have {a:?} and {b:?} pixels; the sides of one must \
         divide those of the other"
    )]
    NotNested {
        /// The field of the configuration.
        field: &'static str,
        /// Index of a branch.
        first: usize,
        /// Index of the other branch.
        second: usize,
        /// Height and width of the first.
        a: [usize; 2],
        /// Height and width of the second.
        b: [usize; 2],
    },
    /// The step cannot be derived, because the curvature is not bounded.
    #[error(
        "`step` cannot be derived, because the curvature of the term `{term}` is not bounded; give \
         a fixed step"
    )]
    NoStep {
        /// Name of the term.
        term: String,
    },
    /// The device does not support a precision.
    #[error("`precision` is {precision}, which {device} does not support; use f32")]
    Precision {
        /// The precision.
        precision: &'static str,
        /// The device.
        device: String,
    },
    /// The data have a different number of classes.
    #[error("`classes` is {found}, but the data have {expected}")]
    Classes {
        /// Number of classes of the model.
        found: usize,
        /// Number of classes of the data.
        expected: usize,
    },
}

impl ConfigError {
    /// Returns an error unless `value`, of the field, is as expected.
    pub(crate) fn range(
        field: &'static str,
        value: f64,
        fine: bool,
        expected: &'static str,
    ) -> Result<(), Self> {
        if fine {
            return Ok(());
        }
        Err(Self::OutOfRange {
            field,
            value,
            expected,
        })
    }

    /// Returns an error unless `value`, of the field, is finite and not below 0.
    pub(crate) fn at_least_zero(field: &'static str, value: f64) -> Result<(), Self> {
        Self::range(field, value, value.is_finite() && value >= 0.0, "0 or more")
    }

    /// Returns an error for the first count that is 0.
    pub(crate) fn counts(counts: &[(&'static str, usize)]) -> Result<(), Self> {
        match counts.iter().find(|(_, n)| *n == 0) {
            Some((field, _)) => Err(Self::Zero { field }),
            None => Ok(()),
        }
    }
}
