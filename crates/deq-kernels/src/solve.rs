//! The limits and results of a whole solve for a step's fixed point.

use burn::tensor::Tensor;

/// When a sample of a whole solve is finished, and how it is accelerated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolveLimits {
    /// Relative and absolute tolerance: |f(z) - z| <= absolute + relative |f(z)|.
    pub tolerance: [f64; 2],
    /// Largest number of evaluations.
    pub max_steps: usize,
    /// Largest momentum of accelerated descent; 0 takes plain steps.
    pub momentum: f64,
    /// Whether a sample restarts when its momentum points uphill.
    pub restart: bool,
}

impl SolveLimits {
    /// Whether the tolerance is met, or the norms are not finite, from |f(z) - z|^2 and |f(z)|^2.
    pub(crate) fn met(&self, residual: f64, image: f64) -> bool {
        let [relative, absolute] = self.tolerance;
        let missed = residual.sqrt() > absolute + relative * image.sqrt();
        !missed || !(residual + image).is_finite()
    }

    pub(crate) fn sample(&self, steps: usize, residual: f64, image: f64) -> SolvedSample {
        SolvedSample {
            steps,
            residual: residual.sqrt(),
            image: image.sqrt(),
            met: (residual + image).is_finite() && self.met(residual, image),
        }
    }
}

/// The outcome of a whole solve for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SolvedSample {
    /// Evaluations of the map.
    pub steps: usize,
    /// |f(z) - z|.
    pub residual: f64,
    /// |f(z)|.
    pub image: f64,
    /// Whether the tolerance was met.
    pub met: bool,
}

/// The outcome of a whole solve, `[batch, n]`.
#[derive(Clone, Debug)]
pub struct Solved {
    /// z, or u of the backward solve.
    pub state: Tensor<2>,
    /// f(z) of a forward solve.
    pub image: Option<Tensor<2>>,
    /// The outcome of each sample.
    pub samples: Vec<SolvedSample>,
}
