//! Several pictures in one request, and the answer for each.

use serde::{Deserialize, Serialize};

use crate::predict::{Answer, Likelihood};

/// A request for several pictures.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchRequest {
    /// Picture files in base64.
    pub(super) pictures: Vec<String>,
    /// Whether dark strokes on light become light on dark.
    #[serde(default)]
    pub(super) invert: bool,
    /// Number of likeliest classes in the answer; all if it is missing.
    #[serde(default)]
    pub(super) top: Option<usize>,
}

impl BatchRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let request: Self = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        match request.pictures.is_empty() {
            true => Err("pictures: must hold at least one picture".into()),
            false => Ok(request),
        }
    }
}

/// The answer for a picture.
#[derive(Serialize)]
pub(super) struct Answered {
    classes: Vec<Likelihood>,
    steps: Option<usize>,
    residual: Option<f64>,
    converged: Option<bool>,
}

impl Answered {
    /// An answer with only the `top` likeliest classes.
    pub(super) fn new(answer: Answer, top: Option<usize>) -> Self {
        let mut classes = answer.classes;
        classes.truncate(top.unwrap_or(usize::MAX).max(1));
        Self {
            classes,
            steps: answer.solve.map(|solve| solve.steps),
            residual: answer.solve.map(|solve| solve.residual),
            converged: answer.solve.map(|solve| solve.converged),
        }
    }
}
