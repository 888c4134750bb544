//! Conjugate gradients on (I - J) u = g for every sample of the batch at once.

use burn::tensor::Tensor;

use super::{inner, ratio, square_norm};
use crate::driver::{Iteration, Observation, Operator, Scalars};
use crate::map::Rows;

/// Solves u = J u + g, J symmetric with I - J positive definite, in the form of Hestenes and
/// Stiefel (1952). The residual of the fixed point, f(u) - u = g - (I - J) u, is the residual of
/// the linear system, so the driver judges it like that of any other solver.
///
/// The coefficients stay on the device: a step reads back nothing but the norms.
pub(crate) struct ConjugateGradients {
    u: Tensor<2>,
    /// Residual, search direction and |r|^2, once the first residual is known.
    krylov: Option<[Tensor<2>; 3]>,
}

impl ConjugateGradients {
    pub(crate) fn new(start: Tensor<2>) -> Self {
        Self {
            u: start,
            krylov: None,
        }
    }
}

impl Iteration for ConjugateGradients {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let [r, ..] = self.krylov.get_or_insert_with(|| {
            let r = map.apply(self.u.clone()) - self.u.clone();
            let rr = square_norm(r.clone());
            [r.clone(), r, rr]
        });
        Observation {
            state: self.u.clone(),
            image: self.u.clone() + r.clone(),
            residual: r.clone(),
            squares: None,
            extra: None,
        }
    }

    fn advance(&mut self, map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some([r, p, rr]) = self.krylov.take() else {
            return;
        };
        let q = p.clone() - map.linear(p.clone());
        // 0 where the curvature is not positive: there the sample is solved, or its system is not
        // positive definite and it must stand still (the driver then calls it stalled).
        let alpha = ratio(rr.clone(), inner(p.clone(), q.clone()));
        self.u = self.u.clone() + p.clone() * alpha.clone();
        let r = r - q * alpha;
        let rr_new = square_norm(r.clone());
        let p = r.clone() + p * ratio(rr_new.clone(), rr);
        self.krylov = Some([r, p, rr_new]);
    }

    fn keep(&mut self, rows: &Rows) {
        self.u = rows.of(self.u.clone());
        self.krylov = self.krylov.take().map(|k| k.map(|t| rows.of(t)));
    }
}
