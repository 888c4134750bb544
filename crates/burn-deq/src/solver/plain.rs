//! Damped plain iteration (Picard, Krasnoselskij-Mann).

use burn::tensor::Tensor;

use super::square_norm;
use crate::driver::{Iteration, Observation, Operator, Scalars};

/// z+ = z + damping (f(z) - z).
pub(crate) struct Plain {
    z: Tensor<2>,
    damping: f64,
    /// f(z) and the residual, between `observe` and `advance`.
    observed: Option<(Tensor<2>, Tensor<2>)>,
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
        let f = map.apply(self.z.clone());
        let r = f.clone() - self.z.clone();
        let scalars = Tensor::cat(vec![square_norm(r.clone()), square_norm(f.clone())], 1);
        self.observed = Some((f, r));
        Observation {
            state: self.z.clone(),
            scalars,
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, _scalars: &Scalars) {
        if let Some((f, r)) = self.observed.take() {
            self.z = if self.damping == 1.0 {
                f
            } else {
                self.z.clone() + r * self.damping
            };
        }
    }
}
