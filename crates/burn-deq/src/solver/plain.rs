//! Damped plain iteration (Picard, Krasnoselskij-Mann).

use burn::tensor::Tensor;

use crate::driver::{Iteration, Observation, Operator, Scalars};
use crate::input::Rows;

/// z+ = z + damping (f(z) - z).
pub(crate) struct Plain {
    z: Tensor<2>,
    damping: f64,
    /// f(z) and the residual, between `observe` and `advance`.
    observed: Option<[Tensor<2>; 2]>,
}

impl Plain {
    pub(crate) fn new(start: Tensor<2>, damping: f64) -> Self {
        Self {
            z: start,
            damping,
            observed: None,
        }
    }
}

impl Iteration for Plain {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let image = map.apply(self.z.clone());
        let residual = image.clone() - self.z.clone();
        self.observed = Some([image.clone(), residual.clone()]);
        Observation {
            state: self.z.clone(),
            image: Some(image),
            residual: Some(residual),
            within: None,
            squares: None,
            extra: None,
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        if let Some([f, r]) = self.observed.take() {
            self.z = if self.damping == 1.0 {
                f
            } else {
                self.z.clone() + r * self.damping
            };
        }
    }

    fn keep(&mut self, rows: &Rows) {
        self.z = rows.of(self.z.clone());
        self.observed = self.observed.take().map(|pair| pair.map(|t| rows.of(t)));
    }
}
