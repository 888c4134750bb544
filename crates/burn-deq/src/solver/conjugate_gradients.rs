//! Conjugate gradients on (I - J) u = g for all samples of the batch at once.
//!
//! ```text
//! r = g - (I - J) u;   p = r at first;   in each step, with q = (I - J) p:
//! alpha = <r, r> / <p, q>,   u+ = u + alpha p,   r+ = r - alpha q
//! beta = <r+, r+> / <r, r>,   p+ = r+ + beta p
//! ```

use burn::tensor::Tensor;
use deq_kernels::vectors::{Rows, conjugate_step, inner_within};

use crate::iteration::{Iteration, Observation, Operator, Scalars};

/// Solves u = J u + g, J symmetric with I - J positive definite, in the form of Hestenes and
/// Stiefel (1952). The residual of the fixed point, f(u) - u = g - (I - J) u, is the residual of
/// the linear system, so the driver judges it like that of any other solver.
///
/// If J = A D with A symmetric and D a diagonal of zeros and ones, inner products are taken over
/// the range of D. On this range, the method is conjugate gradients with the symmetric D A D in
/// place of J. The iteration also updates all elements outside the range, so u plus the residual is
/// g + A D u without another product.
///
/// If the curvature <p, q> is not positive, alpha is 0: the sample is solved, or its system is not
/// positive definite and it must not move (the driver then calls it stalled). The coefficients stay
/// on the device: a step reads back nothing but the norms.
pub(super) struct ConjugateGradients {
    u: Tensor<2>,
    /// D.
    within: Option<Tensor<2>>,
    krylov: Option<Krylov>,
}

/// Vectors `[batch, n]` and scalars `[batch, 1]`, once the first residual is known.
struct Krylov {
    r: Tensor<2>,
    /// Search direction.
    p: Tensor<2>,
    /// <r, r>.
    rr: Tensor<2>,
    /// |r|^2 and |u + r|^2, `[batch, 2]`, if a step provides them.
    squares: Option<Tensor<2>>,
}

impl ConjugateGradients {
    /// Starts from `start`. `residual` is the residual there, if known.
    pub(super) fn new(
        start: Tensor<2>,
        residual: Option<Tensor<2>>,
        within: Option<Tensor<2>>,
    ) -> Self {
        Self {
            u: start,
            krylov: residual.map(|r| Krylov::new(r, within.as_ref())),
            within,
        }
    }
}

impl Krylov {
    /// Starts from the first residual.
    fn new(r: Tensor<2>, within: Option<&Tensor<2>>) -> Self {
        Self {
            rr: inner_within(within, r.clone(), r.clone()),
            p: r.clone(),
            r,
            squares: None,
        }
    }
}

impl Iteration for ConjugateGradients {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let within = &self.within;
        let Krylov { r, squares, .. } = self.krylov.get_or_insert_with(|| {
            let r = map.apply(self.u.clone()) - self.u.clone();
            Krylov::new(r, within.as_ref())
        });
        Observation {
            state: self.u.clone(),
            image: None,
            residual: Some(r.clone()),
            within: within.clone(),
            squares: squares.clone(),
            extra: None,
        }
    }

    fn advance(&mut self, map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some(Krylov { r, p, rr, .. }) = self.krylov.take() else {
            return;
        };
        let product = map.linear(p.clone());
        let read = [&self.u, &r, &rr];
        let step = conjugate_step(read, self.within.as_ref(), p, product);
        self.u = step.u;
        self.krylov = Some(Krylov {
            r: step.r,
            p: step.p,
            rr: step.rr,
            squares: Some(step.squares),
        });
    }

    fn observes_freely(&self) -> bool {
        self.krylov.is_some()
    }

    fn keep(&mut self, rows: &Rows) {
        self.u = rows.of(self.u.clone());
        self.within = self.within.take().map(|d| rows.of(d));
        self.krylov = self.krylov.take().map(|k| Krylov {
            r: rows.of(k.r),
            p: rows.of(k.p),
            rr: rows.of(k.rr),
            squares: k.squares.map(|t| rows.of(t)),
        });
    }
}
