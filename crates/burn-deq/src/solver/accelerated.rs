//! Accelerated proximal gradient descent with adaptive restart (see
//! [`AcceleratedConfig`](crate::solver::AcceleratedConfig)).
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
//! beta is 0 if |d|^2 > <d, y - y->: the Jacobian then has negative eigenvalues, which momentum
//! would amplify. A sample restarts if <f(y) - y, d> < 0: the last step went against the momentum.
//! The coefficients stay on the device.

use burn::tensor::Tensor;
use deq_kernels::vectors::{Rows, inner, ratio};

use super::step::{Iterate, Step};
use crate::config::AcceleratedConfig;

/// FISTA on all samples of the batch at once.
pub(super) struct Accelerated {
    config: AcceleratedConfig,
    /// y and f(y) of the previous step.
    previous: Option<[Tensor<2>; 2]>,
    /// t, `[batch, 1]`, from the second step on.
    t: Option<Tensor<2>>,
}

impl Accelerated {
    pub(super) fn new(config: &AcceleratedConfig) -> Self {
        Self {
            config: config.clone(),
            previous: None,
            t: None,
        }
    }

    /// beta `[batch, 1]`. Moves on to the next t.
    fn momentum(&mut self, r: &Tensor<2>, d: &Tensor<2>, moved: Tensor<2>) -> Tensor<2> {
        let length = inner(moved.clone(), moved.clone());
        let along = inner(d.clone(), moved);
        let overshoots = inner(d.clone(), d.clone()).greater(along.clone());
        let q = ratio(along, length)
            .clamp(0.0, 1.0)
            .mask_fill(overshoots, 0.0);
        let root = (q.clone().neg() + 1.0).sqrt();
        let best = (root.clone().neg() + 1.0) / (root + 1.0);
        let mut t = self.t.take().unwrap_or_else(|| q.ones_like());
        if self.config.restart {
            let uphill = inner(r.clone(), d.clone()).lower_elem(0.0);
            t = t.mask_fill(uphill, 1.0);
        }
        let next = ((t.clone().powi_scalar(2) * 4.0 + 1.0).sqrt() + 1.0) / 2.0;
        let beta = ((t - 1.0) / next.clone()).min_pair(best);
        self.t = Some(next);
        beta.clamp_max(self.config.momentum)
    }
}

impl Step for Accelerated {
    fn step(&mut self, at: Iterate) -> Tensor<2> {
        let next = match self.previous.take() {
            None => at.f.clone(),
            Some([before, image]) => {
                let d = at.f.clone() - image;
                let beta = self.momentum(&at.r, &d, at.z.clone() - before);
                at.f.clone() + d * beta
            }
        };
        self.previous = Some([at.z, at.f]);
        next
    }

    fn keep(&mut self, rows: &Rows) {
        self.t = self.t.take().map(|t| rows.of(t));
        self.previous = self.previous.take().map(|pair| pair.map(|t| rows.of(t)));
    }
}
