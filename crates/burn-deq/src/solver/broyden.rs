//! Limited-memory Broyden for all samples of a batch at once.
//!
//! ```text
//! B = -I + U'V: the inverse Jacobian of r(z) = f(z) - z
//! u = (dz - B dr) / <dz, B dr>,   v = B'dz       Sherman-Morrison: B+ = B + u v'
//! z+ = z - damping B r
//! ```

use burn::tensor::{Bool, Tensor};
use deq_kernels::vectors::{Ring, Rows, inner, ring, rounding, square_distance, square_norm};

use super::step::{Iterate, Step};
use crate::config::BroydenConfig;

/// Broyden's good method; see [`BroydenConfig`] for the sources and the safeguard.
///
/// The rank-one terms are in two rings. A step takes four products with them. Every decision is a
/// mask on the device: a step reads back nothing but the norms.
pub(super) struct Broyden {
    config: BroydenConfig,
    previous: Option<Previous>,
    terms: Option<Terms>,
}

/// The previous iterate.
struct Previous {
    z: Tensor<2>,
    r: Tensor<2>,
    /// |r|^2 and |f|^2, `[batch, 2]`.
    squares: Tensor<2>,
    /// B r.
    br: Tensor<2>,
    /// Samples whose step from that iterate was not plain.
    accelerated: Tensor<2, Bool>,
}

/// The rank-one terms.
struct Terms {
    u: Box<dyn Ring>,
    v: Box<dyn Ring>,
    /// `[batch, m]`: the empty slots of each sample.
    empty: Tensor<2, Bool>,
    filled: usize,
}

impl Terms {
    fn new(like: &Tensor<2>, history: usize) -> Self {
        Self {
            u: ring(like, history),
            v: ring(like, history),
            empty: Tensor::full([like.dims()[0], history], true, &like.device()),
            filled: 0,
        }
    }

    /// The sum of the vectors b_j, weighted by <a_j, x>: sum_j b_j <a_j, x>, `[batch, n]`.
    fn mix(&self, a: &dyn Ring, b: &dyn Ring, x: &Tensor<2>) -> Tensor<2> {
        b.combine(a.products(&[x]).mask_fill(self.empty.clone(), 0.0))
    }

    /// B x.
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        self.mix(&*self.v, &*self.u, &x) - x
    }

    /// B'x.
    fn apply_transposed(&self, x: Tensor<2>) -> Tensor<2> {
        self.mix(&*self.u, &*self.v, &x) - x
    }

    /// Adds one term for the samples that are not in `without`.
    fn push(&mut self, u: Tensor<2>, v: Tensor<2>, without: Tensor<2, Bool>) {
        let [batch, width] = u.dims();
        let hole = without.clone().expand([batch, width]);
        let clean = |x: Tensor<2>| x.mask_fill(hole.clone(), 0.0);
        self.u.store(self.filled, clean(u));
        self.v.store(self.filled, clean(v));
        let slot = [0..batch, self.filled..self.filled + 1];
        self.empty = self.empty.clone().slice_assign(slot, without);
        self.filled += 1;
    }
}

impl Broyden {
    pub(super) fn new(config: &BroydenConfig) -> Self {
        Self {
            config: config.clone(),
            previous: None,
            terms: None,
        }
    }
}

impl Step for Broyden {
    fn step(&mut self, at: Iterate) -> Tensor<2> {
        let Iterate {
            mut z,
            mut r,
            mut squares,
            ..
        } = at;
        let [batch, width] = z.dims();
        let mut terms = match self.terms.take() {
            Some(terms) if terms.filled < self.config.history => terms,
            _ => Terms::new(&z, self.config.history),
        };
        let mut br = terms.apply(r.clone());

        if let Some(before) = self.previous.take() {
            let residual = |squares: &Tensor<2>| squares.clone().narrow(1, 0, 1);
            let limit = residual(&before.squares) * self.config.safeguard.powi(2);
            // Not "greater", so that NaN counts as worse.
            let worse = residual(&squares).lower_equal(limit).bool_not();
            let back = worse.bool_and(before.accelerated);

            let dz = z.clone() - before.z.clone();
            let b_dr = br.clone() - before.br.clone();
            let bt_dz = terms.apply_transposed(dz.clone());
            let denominator = inner(dz.clone(), b_dr.clone());
            // The Sherman-Morrison formula divides by <dz, B dr>. A term is left out if rounding
            // error dominates this product.
            let size = (square_norm(dz.clone()) * square_norm(b_dr.clone())).sqrt();
            let usable = denominator.clone().abs().greater(size * 1e-6);
            // In one dimension this test always passes, even if dr is only rounding error. On a
            // slope of 1, the step would then have a random length.
            let dr = square_distance(&r, &before.r);
            let sizes = squares.clone().max_pair(before.squares.clone()).sum_dim(1);
            let resolved = dr.greater(sizes * rounding(r.dtype()).powi(2));
            let usable = usable.bool_and(resolved);
            let skip = usable.bool_not().bool_or(back.clone());
            let u = (dz - b_dr) / denominator;
            // B_new r = B r + u <v, r>.
            let gain = u.clone() * inner(bt_dz.clone(), r.clone());
            let hole = skip.clone().expand([batch, width]);
            br = br + gain.mask_fill(hole, 0.0);
            terms.push(u, bt_dz, skip);

            // Reject steps that made things much worse: return to the previous iterate, without any
            // terms.
            let wide = back.clone().expand([batch, width]);
            z = z.mask_where(wide.clone(), before.z);
            br = br.mask_where(wide.clone(), before.r.clone().neg());
            r = r.mask_where(wide, before.r);
            squares = squares.mask_where(back.clone().expand([batch, 2]), before.squares);
            let m = self.config.history;
            terms.empty = terms.empty.bool_or(back.expand([batch, m]));
        }
        let next = z.clone() - br.clone() * self.config.damping;
        let accelerated = terms.empty.clone().bool_not().any_dim(1);
        self.terms = Some(terms);
        self.previous = Some(Previous {
            z,
            r,
            squares,
            br,
            accelerated,
        });
        next
    }

    fn keep(&mut self, rows: &Rows) {
        self.previous = self.previous.take().map(|p| Previous {
            z: rows.of(p.z),
            r: rows.of(p.r),
            squares: rows.of(p.squares),
            br: rows.of(p.br),
            accelerated: rows.of(p.accelerated),
        });
        if let Some(terms) = &mut self.terms {
            terms.u.keep(rows);
            terms.v.keep(rows);
            terms.empty = rows.of(terms.empty.clone());
        }
    }

    fn recovers(&self) -> bool {
        true
    }

    fn inverse_transposed(&self, g: Tensor<2>) -> Option<Tensor<2>> {
        Some(self.terms.as_ref()?.apply_transposed(g))
    }
}
