//! Accelerated proximal gradient descent with adaptive restart.
//!
//! With the map's values f(y) and d = f(y) - f(y-):
//!
//! ```text
//! q    = <d, y - y-> / |y - y-|^2                       Rayleigh quotient of the Jacobian
//! t+   = (1 + sqrt(1 + 4 t^2)) / 2,  t = 1 at a restart
//! beta = min((t - 1) / t+, (1 - sqrt(1 - q)) / (1 + sqrt(1 - q)), largest)
//! y+   = f(y) + beta d
//! ```
//!
//! A sample restarts if <f(y) - y, d> < 0: the last step went against the momentum.

use burn::tensor::{Tensor, TensorData};

use super::{inner, ratio};
use crate::config::AcceleratedConfig;
use crate::driver::{Iteration, Observation, Operator, Scalars};
use crate::input::Rows;

/// Below this quotient, momentum brings little, and it harms maps with negative eigenvalues.
const LEAST_QUOTIENT: f64 = 0.5;

/// FISTA on all samples of the batch at once. The coefficients stay on the device: a step reads
/// back nothing but the norms.
pub(crate) struct Accelerated {
    config: AcceleratedConfig,
    y: Tensor<2>,
    /// y and f(y) of the previous step.
    previous: Option<[Tensor<2>; 2]>,
    /// t, `[batch, 1]`.
    t: Tensor<2>,
    /// f(y) and the residual, between `observe` and `advance`.
    observed: Option<[Tensor<2>; 2]>,
}

impl Accelerated {
    pub(crate) fn new(start: Tensor<2>, config: AcceleratedConfig) -> Self {
        let ones = TensorData::ones::<f32, _>([start.dims()[0], 1]);
        let options = (&start.device(), start.dtype());
        Self {
            config,
            t: Tensor::from_data(ones, options),
            y: start,
            previous: None,
            observed: None,
        }
    }

    /// beta `[batch, 1]`, and the next t.
    fn momentum(&self, r: &Tensor<2>, d: &Tensor<2>, before: &Tensor<2>) -> [Tensor<2>; 2] {
        let moved = self.y.clone() - before.clone();
        let length = inner(moved.clone(), moved.clone());
        let q = ratio(inner(d.clone(), moved), length).clamp(0.0, 1.0);
        let fast = q.clone().lower_elem(LEAST_QUOTIENT);
        let q = q.mask_fill(fast, 0.0);
        let root = (q.neg() + 1.0).sqrt();
        let best = (root.clone().neg() + 1.0) / (root + 1.0);
        let mut t = self.t.clone();
        if self.config.restart {
            let uphill = inner(r.clone(), d.clone()).lower_elem(0.0);
            t = t.mask_fill(uphill, 1.0);
        }
        let next = ((t.clone().powi_scalar(2) * 4.0 + 1.0).sqrt() + 1.0) / 2.0;
        let beta = ((t - 1.0) / next.clone()).min_pair(best);
        [beta.clamp_max(self.config.momentum), next]
    }
}

impl Iteration for Accelerated {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let image = map.apply(self.y.clone());
        let residual = image.clone() - self.y.clone();
        self.observed = Some([image.clone(), residual.clone()]);
        Observation {
            state: self.y.clone(),
            image: Some(image),
            residual: Some(residual),
            within: None,
            squares: None,
            extra: None,
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some([f, r]) = self.observed.take() else {
            return;
        };
        let mut next = f.clone();
        if let Some([before, image]) = &self.previous {
            let d = f.clone() - image.clone();
            let [beta, t] = self.momentum(&r, &d, before);
            next = next + d * beta;
            self.t = t;
        }
        let y = std::mem::replace(&mut self.y, next);
        self.previous = Some([y, f]);
    }

    fn keep(&mut self, rows: &Rows) {
        self.y = rows.of(self.y.clone());
        self.t = rows.of(self.t.clone());
        for pair in [&mut self.previous, &mut self.observed] {
            *pair = pair.take().map(|pair| pair.map(|t| rows.of(t)));
        }
    }
}
