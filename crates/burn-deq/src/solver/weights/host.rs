//! The system of one sample, on the host in f64.

use super::rule::Rule;
use super::small::{Cholesky, gauss};
use crate::config::AndersonType;

/// The decision for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decision {
    /// A step without history.
    Plain,
    /// A step with the weights in [`System::gamma`].
    Accelerate,
    /// The last accelerated step made things worse: a plain step from the previous iterate.
    TakeBack,
}

/// The system of one sample, on the host.
#[derive(Clone)]
pub(super) struct System {
    rule: Rule,
    /// <dR_i, dR_j>, m x m.
    gram: Vec<f64>,
    /// <dZ_i, dR_j>, m x m, for type I.
    secant: Vec<f64>,
    /// <dR_j, r> for type II, <dZ_j, r> for type I.
    rhs: Vec<f64>,
    /// Slots that hold differences of this sample since its last restart.
    valid: Vec<bool>,
    /// |r|^2 and |f|^2 before the last step, and whether that step was accelerated.
    last: Option<[f64; 2]>,
    accelerated: bool,
    /// The weights of the last decision to accelerate, 0 for slots that are not in use.
    pub(super) gamma: Vec<f64>,
    /// Scratch memory of `solve`: lengths of all differences, the used slots, and their system.
    /// Allocating it for every sample would cost as much as the arithmetic.
    lengths: Vec<f64>,
    slots: Vec<usize>,
    factor: Cholesky,
    x: Vec<f64>,
}

impl System {
    pub(super) fn new(rule: Rule) -> Self {
        let m = rule.history;
        Self {
            rule,
            gram: vec![0.0; m * m],
            secant: match rule.kind {
                AndersonType::I => vec![0.0; m * m],
                AndersonType::II => Vec::new(),
            },
            rhs: vec![0.0; m],
            valid: vec![false; m],
            last: None,
            accelerated: false,
            gamma: Vec::new(),
            lengths: Vec::new(),
            slots: Vec::new(),
            factor: Cholesky::new(rule.ridge),
            x: Vec::new(),
        }
    }

    /// Forgets all differences.
    pub(super) fn restart(&mut self) {
        self.valid.fill(false);
    }

    /// Records |r|^2, |f|^2 and the products of one observation, and decides on the step.
    /// `accelerate` is false if the schedule requires a plain step.
    pub(super) fn update(
        &mut self,
        squares: [f64; 2],
        products: &[f64],
        slot: usize,
        accelerate: bool,
    ) -> Decision {
        let size = |[r, f]: [f64; 2]| r + f;
        let size = size(squares).max(self.last.map_or(0.0, size));
        self.take_in(products, slot, self.rule.noise * size);
        let residual = squares[0];
        let worse = self
            .last
            .is_some_and(|[last, _]| residual.is_nan() || residual > self.rule.growth * last);
        if self.accelerated && worse {
            // The residual of the previous iterate stays the one to beat.
            self.restart();
            self.accelerated = false;
            return Decision::TakeBack;
        }
        self.last = Some(squares);
        self.accelerated = accelerate && self.solve(slot);
        if self.accelerated {
            Decision::Accelerate
        } else {
            Decision::Plain
        }
    }

    /// Stores the products with the difference in `slot`. The difference is not used if its squared
    /// length is at most `noise`, because its direction is then that of rounding errors.
    fn take_in(&mut self, products: &[f64], slot: usize, noise: f64) {
        let m = self.rhs.len();
        if products.is_empty() {
            return;
        }
        let column = |k: usize| &products[k * m..(k + 1) * m];
        for (j, product) in column(0).iter().enumerate() {
            self.gram[slot * m + j] = *product;
            self.gram[j * m + slot] = *product;
        }
        match self.rule.kind {
            AndersonType::II => self.rhs.copy_from_slice(column(1)),
            AndersonType::I => {
                for j in 0..m {
                    self.secant[j * m + slot] = column(3)[j] - column(0)[j];
                    self.secant[slot * m + j] = column(2)[j];
                    self.rhs[j] = column(4)[j] - column(1)[j];
                }
            }
        }
        let square = self.gram[slot * m + slot];
        self.valid[slot] = square > noise && square.is_finite();
    }

    /// Computes gamma from systems scaled to differences of unit length, so that neither the scale
    /// of z nor the decrease of the residuals matters. The newest difference comes first. A
    /// difference that depends on newer ones is left out, because with more differences than
    /// dimensions the old ones would swamp the new ones. Returns false if there is no history, or
    /// if the weights exceed the cap or are not finite (then the history is dropped).
    fn solve(&mut self, newest: usize) -> bool {
        let m = self.rhs.len();
        let (gram, lengths) = (&self.gram, &mut self.lengths);
        lengths.clear();
        lengths.extend((0..m).map(|j| gram[j * m + j].sqrt()));
        let (slots, factor) = (&mut self.slots, &mut self.factor);
        slots.clear();
        factor.clear();
        for j in (0..m)
            .map(|age| (newest + m - age) % m)
            .filter(|j| self.valid[*j])
        {
            // Cosines of the angles between differences.
            let cosine = |i: &usize| gram[i * m + j] / (lengths[*i] * lengths[j]);
            if factor.grow(slots.iter().map(cosine)) {
                slots.push(j);
            }
        }
        if slots.is_empty() {
            return false;
        }
        self.x.clear();
        match self.rule.kind {
            AndersonType::II => {
                let of = |j: &usize| self.rhs[*j] / lengths[*j];
                self.x.extend(slots.iter().map(of));
                factor.solve(&mut self.x);
            }
            AndersonType::I => self.x.extend(self.solve_secant().into_iter().flatten()),
        }
        self.gamma.clear();
        self.gamma.resize(m, 0.0);
        for (x, j) in self.x.iter().zip(&self.slots) {
            self.gamma[*j] = x / self.lengths[*j];
        }
        let size = self.gamma.iter().map(|g| g.abs()).sum::<f64>();
        // Type I may find no weights: its system can be singular even if dR is not.
        let found = size > 0.0 && size <= self.rule.cap
            || self.rule.kind == AndersonType::II && size == 0.0;
        if !found {
            self.restart();
        }
        found
    }

    /// The secant system of type I, scaled like the Gram matrix. Its sign is flipped, because dR is
    /// close to -dZ for contractions. Regularisation then moves the system away from singularity.
    fn solve_secant(&self) -> Option<Vec<f64>> {
        let (slots, n, m) = (&self.slots, self.slots.len(), self.rhs.len());
        let length = |i: usize| self.lengths[slots[i]];
        let mut a: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                let entry =
                    |j: usize| -self.secant[slots[i] * m + slots[j]] / (length(i) * length(j));
                let mut row: Vec<f64> = (0..n).map(entry).collect();
                row[i] += self.rule.ridge;
                row.push(-self.rhs[slots[i]] / length(i));
                row
            })
            .collect();
        gauss(&mut a)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::DType;

    use crate::config::AndersonConfig;

    fn weights(gram: [f64; 4], rhs: [f64; 2], ridge: f64) -> System {
        let config = AndersonConfig::new()
            .with_history(2)
            .with_regularization(ridge);
        let mut w = System::new(Rule::new(&config, DType::F64));
        w.gram = gram.to_vec();
        w.rhs = rhs.to_vec();
        w.valid = vec![true, true];
        w
    }

    /// Stationarity of the regularised least squares: (G + ridge diag(G)) gamma = rhs.
    #[test]
    fn weights_minimise_the_regularised_least_squares() {
        for ridge in [1e-6, 1e-4, 1e-2, 1.0] {
            let mut w = weights([4.0, 1.0, 1.0, 2.0], [1.0, -3.0], ridge);
            assert!(w.solve(0));
            let gamma = &w.gamma;
            for i in 0..2 {
                let lhs = (0..2).map(|j| w.gram[i * 2 + j] * gamma[j]).sum::<f64>()
                    + ridge * w.gram[i * 2 + i] * gamma[i];
                assert!((lhs - w.rhs[i]).abs() < 1e-14, "{ridge}");
            }
        }
    }

    #[test]
    fn of_two_equal_differences_the_newer_is_used() {
        let mut w = weights([1.0, 1.0, 1.0, 1.0], [1.0, 1.0], 1e-15);
        assert!(w.solve(1));
        assert_eq!(w.gamma[0], 0.0);
        assert!((w.gamma[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn weights_that_are_too_large_or_not_finite_are_refused() {
        let nan = f64::NAN;
        for (gram, rhs, accepted) in [
            ([1.0, 0.0, 0.0, 1e-12], [0.0, 1.0], false),
            ([1.0, 0.0, 0.0, 1.0], [nan, 1.0], false),
            ([1.0, nan, nan, 1.0], [0.5, 1.0], true),
        ] {
            let mut w = weights(gram, rhs, 1e-15);
            assert_eq!(w.solve(0), accepted, "{gram:?} {rhs:?}");
        }
    }
}
