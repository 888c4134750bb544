//! Settings that cannot work.

/// A setting that no solver can work with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {value}; it must be {expected}")]
pub struct ConfigError {
    /// The path and name of the field.
    pub field: String,
    /// Its value.
    pub value: f64,
    /// The accepted values.
    pub expected: &'static str,
}

/// Checks one number.
pub(crate) fn demand(
    field: &str,
    value: f64,
    ok: bool,
    expected: &'static str,
) -> Result<(), ConfigError> {
    ok.then_some(()).ok_or_else(|| ConfigError {
        field: field.to_owned(),
        value,
        expected,
    })
}
