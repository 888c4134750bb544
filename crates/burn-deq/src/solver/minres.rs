//! MINRES on (I - J) u = g for all samples of the batch at once.
//!
//! ```text
//! Lanczos:   y = (I - J) v_k - beta_k v_(k-1),   alpha = <v_k, y>,   beta v_(k+1) = y - alpha v_k
//! rotation:  gamma = |(gbar, beta)|,   c = gbar / gamma,   s = beta / gamma
//! update:    w_k = (v_k - epsilon w_(k-2) - delta w_(k-1)) / gamma,   u+ = u + c phibar w_k
//! ```

use burn::tensor::{DType, Tensor};
use deq_kernels::vectors::{Rows, inner_within, ratio};

use crate::iteration::{Iteration, Observation, Operator, Scalars};

/// Solves u = J u + g, J symmetric, I - J possibly indefinite or singular, by the Lanczos process
/// with Givens rotations of Paige and Saunders (1975, doi:10.1137/0712047). For a singular system
/// without a solution, it ends at a point that minimises the residual.
///
/// A recurrence updates the residual vector, r_k = s_k^2 r_{k-1} - phibar_k c_k v_{k+1}, so that
/// the driver can judge it in any norm.
///
/// If J = A D with a diagonal D of zeros and ones, inner products are taken over the range of D:
/// see `conjugate_gradients`.
pub(super) struct Minres {
    u: Tensor<2>,
    /// D.
    within: Option<Tensor<2>>,
    residual: Option<Tensor<2>>,
    lanczos: Option<Lanczos>,
}

/// State of the process, in the notation of the paper; scalars are `[batch, 1]`.
struct Lanczos {
    /// v_k, v_{k-1}, w_{k-1}, w_{k-2}.
    vectors: [Tensor<2>; 4],
    /// beta_k, dbar, epsilon, phibar, cosine, sine, and the largest entry of the tridiagonal
    /// matrix.
    scalars: [Tensor<2>; 7],
}

impl Minres {
    /// Starts from `start`. `residual` is the residual there, if known.
    pub(super) fn new(
        start: Tensor<2>,
        residual: Option<Tensor<2>>,
        within: Option<Tensor<2>>,
    ) -> Self {
        Self {
            u: start,
            within,
            residual,
            lanczos: None,
        }
    }
}

impl Iteration for Minres {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let r = self
            .residual
            .get_or_insert_with(|| map.apply(self.u.clone()) - self.u.clone())
            .clone();
        Observation {
            state: self.u.clone(),
            image: None,
            residual: Some(r),
            within: self.within.clone(),
            squares: None,
            extra: None,
        }
    }

    fn advance(&mut self, map: &mut Operator<'_>, _scalars: Option<&Scalars>) {
        let Some(r) = self.residual.take() else {
            return;
        };
        let Lanczos {
            vectors: [v, v_old, w1, w2],
            scalars: [beta, dbar, epsilon, phibar, cs, sn, largest],
        } = self.lanczos.take().unwrap_or_else(|| {
            let beta = inner_within(self.within.as_ref(), r.clone(), r.clone()).sqrt();
            let (zero, zeros) = (beta.zeros_like(), r.zeros_like());
            Lanczos {
                vectors: [
                    r.clone() * ratio(beta.ones_like(), beta.clone()),
                    zeros.clone(),
                    zeros.clone(),
                    zeros,
                ],
                scalars: [
                    zero.clone(),
                    zero.clone(),
                    zero.clone(),
                    beta.clone(),
                    beta.ones_like().neg(),
                    zero.clone(),
                    zero,
                ],
            }
        });
        // One step of the Lanczos process.
        let y = v.clone() - map.linear(v.clone()) - v_old * beta;
        let alpha = inner_within(self.within.as_ref(), v.clone(), y.clone());
        let y = y - v.clone() * alpha.clone();
        let beta = inner_within(self.within.as_ref(), y.clone(), y.clone()).sqrt();
        let v_new = y.clone() * ratio(beta.ones_like(), beta.clone());
        // Applies the previous rotation to the new column, then a rotation that annihilates its
        // last entry.
        let delta = cs.clone() * dbar.clone() + sn.clone() * alpha.clone();
        let gbar = sn.clone() * dbar - cs.clone() * alpha;
        let epsilon_new = sn * beta.clone();
        let dbar = (cs * beta.clone()).neg();
        let gamma = (gbar.clone() * gbar.clone() + beta.clone() * beta.clone()).sqrt();
        let largest = largest.max_pair(gamma.clone());
        // If gamma is within rounding error, the Krylov space is exhausted, and the remaining
        // residual is not in the range of the matrix. The iterate must not move from here on,
        // because the process would continue on rounding errors alone.
        let rounding = match r.dtype() {
            DType::F64 => 1e-10,
            _ => 1e-5,
        };
        let exhausted = gamma.clone().greater(largest.clone() * rounding).bool_not();
        let largest = largest.mask_fill(exhausted.clone(), f64::INFINITY);
        let cs = (gbar / gamma.clone()).mask_fill(exhausted.clone(), 0.0);
        let sn = (beta.clone() / gamma.clone()).mask_fill(exhausted.clone(), 1.0);
        let phi = cs.clone() * phibar.clone();
        let inverse = gamma.recip().mask_fill(exhausted, 0.0);
        // phibar_k c_k v_{k+1}, computed from y: outside the range of D it exists even if beta is
        // 0.
        let turned = y * (phi.clone() * inverse.clone());
        let phibar = sn.clone() * phibar;
        let w = (v.clone() - w2 * epsilon - w1.clone() * delta) * inverse;
        self.u = self.u.clone() + w.clone() * phi;
        self.residual = Some(r * (sn.clone() * sn.clone()) - turned);
        self.lanczos = Some(Lanczos {
            vectors: [v_new, v, w, w1],
            scalars: [beta, dbar, epsilon_new, phibar, cs, sn, largest],
        });
    }

    fn observes_freely(&self) -> bool {
        self.residual.is_some()
    }

    fn keep(&mut self, rows: &Rows) {
        self.u = rows.of(self.u.clone());
        self.within = self.within.take().map(|d| rows.of(d));
        self.residual = self.residual.take().map(|r| rows.of(r));
        self.lanczos = self.lanczos.take().map(|l| Lanczos {
            vectors: l.vectors.map(|t| rows.of(t)),
            scalars: l.scalars.map(|t| rows.of(t)),
        });
    }
}
