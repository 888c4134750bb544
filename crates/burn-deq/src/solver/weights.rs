//! The small systems for Anderson's weights, on the host in f64. `device_weights` solves them on
//! the device, without a read-back.

use burn::tensor::DType;

use super::device_weights::DeviceWeights;
use super::rounding;
use crate::config::{AndersonConfig, AndersonType};
use crate::driver::Scalars;
use crate::input::Rows;

/// Number of columns of products of the newest differences with all differences.
///
/// Type II needs <dR_j, dR_new> and <dR_j, r>. Type I also needs <dR_j, dZ_new>, <dF_j, dR_new> and
/// <dF_j, r>; dZ = dF - dR is not stored.
pub(crate) fn columns(kind: AndersonType) -> usize {
    match kind {
        AndersonType::I => 5,
        AndersonType::II => 2,
    }
}

/// The largest accepted sum of absolute weights. Weights multiply rounding errors, which must stay
/// a small part of the state.
pub(crate) fn weight_cap(config: &AndersonConfig, dtype: DType) -> f64 {
    let epsilon = dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon);
    config.weight_cap.min(0.1 / epsilon)
}

/// The decision for one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// A step without history.
    Plain,
    /// A step with the weights in [`HostWeights::gamma`].
    Accelerate,
    /// The last accelerated step made things worse: a plain step from the previous iterate.
    TakeBack,
}

/// The system of one sample, on the host.
#[derive(Clone)]
pub(crate) struct HostWeights {
    kind: AndersonType,
    ridge: f64,
    cap: f64,
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
    /// Rounding error of a difference relative to the state, squared.
    noise: f64,
    /// The weights of the last decision to accelerate, 0 for slots that are not in use.
    pub(crate) gamma: Vec<f64>,
    /// Scratch memory of `solve`: lengths of all differences, the used slots, and their system.
    /// Allocating it for every sample would cost as much as the arithmetic.
    lengths: Vec<f64>,
    slots: Vec<usize>,
    factor: Cholesky,
    x: Vec<f64>,
}

impl HostWeights {
    pub(crate) fn new(config: &AndersonConfig, dtype: DType) -> Self {
        let m = config.history;
        let floor = match dtype {
            DType::F64 => 1e-15,
            // Rounding error of the Gram matrix's entries relative to its diagonal.
            _ => 1e-7,
        };
        let ridge = config.regularization.max(floor);
        Self {
            kind: config.kind,
            ridge,
            cap: weight_cap(config, dtype),
            gram: vec![0.0; m * m],
            secant: match config.kind {
                AndersonType::I => vec![0.0; m * m],
                AndersonType::II => Vec::new(),
            },
            rhs: vec![0.0; m],
            valid: vec![false; m],
            last: None,
            accelerated: false,
            noise: rounding(dtype).powi(2),
            gamma: Vec::new(),
            lengths: Vec::new(),
            slots: Vec::new(),
            factor: Cholesky::new(ridge),
            x: Vec::new(),
        }
    }

    /// Forgets all differences.
    pub(crate) fn restart(&mut self) {
        self.valid.fill(false);
    }

    /// Records |r|^2, |f|^2 and the products of one observation, and decides on the step.
    /// `accelerate` is false if the schedule requires a plain step.
    pub(crate) fn update(
        &mut self,
        squares: [f64; 2],
        products: &[f64],
        slot: usize,
        safeguard: f64,
        accelerate: bool,
    ) -> Decision {
        let size = |[r, f]: [f64; 2]| r + f;
        let size = size(squares).max(self.last.map_or(0.0, size));
        self.take_in(products, slot, self.noise * size);
        let residual = squares[0];
        let worse = self
            .last
            .is_some_and(|[last, _]| residual.is_nan() || residual > safeguard * safeguard * last);
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
    /// length is at most `noise`, because its direction is that of rounding errors.
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
        match self.kind {
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
    /// dimensions the old ones would swamp the new ones. Returns false without history, or if the
    /// weights exceed the cap or are not finite (then the history is dropped).
    fn solve(&mut self, newest: usize) -> bool {
        let m = self.rhs.len();
        let (gram, lengths) = (&self.gram, &mut self.lengths);
        lengths.clear();
        lengths.extend((0..m).map(|j| gram[j * m + j].sqrt()));
        let (slots, factor) = (&mut self.slots, &mut self.factor);
        slots.clear();
        factor.entries.clear();
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
        match self.kind {
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
        let found = size > 0.0 && size <= self.cap || self.kind == AndersonType::II && size == 0.0;
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
                row[i] += self.ridge;
                row.push(-self.rhs[slots[i]] / length(i));
                row
            })
            .collect();
        gauss(&mut a)
    }
}

/// The Cholesky factor of a matrix with diagonal 1 + ridge, row by row.
#[derive(Clone)]
struct Cholesky {
    /// The packed lower triangle.
    entries: Vec<f64>,
    ridge: f64,
}

impl Cholesky {
    fn new(ridge: f64) -> Self {
        Self {
            entries: Vec::new(),
            ridge,
        }
    }

    /// Row i up to and including the diagonal.
    fn row(&self, i: usize) -> &[f64] {
        let start = i * (i + 1) / 2;
        &self.entries[start..=start + i]
    }

    /// Adds a row, given the entries left of the diagonal. Refuses if the row depends on the
    /// others: the rest of its unit length is then within rounding error.
    fn grow(&mut self, row: impl Iterator<Item = f64>) -> bool {
        let start = self.entries.len();
        let mut left = 1.0 + self.ridge;
        for (i, entry) in row.enumerate() {
            let above = self.row(i);
            let entry = (entry - dot(above, &self.entries[start..])) / above[i];
            left -= entry * entry;
            self.entries.push(entry);
        }
        // Strong regularisation is deliberate and does not indicate dependence. NaN counts as
        // dependent.
        let independent = left - self.ridge > 3.0 * self.ridge.min(1e-6);
        if independent {
            self.entries.push(left.sqrt());
        } else {
            self.entries.truncate(start);
        }
        independent
    }

    /// Solves L L' x = b; x replaces b.
    fn solve(&self, b: &mut [f64]) {
        for i in 0..b.len() {
            let row = self.row(i);
            b[i] = (b[i] - dot(row, &b[..i])) / row[i];
        }
        for i in (0..b.len()).rev() {
            b[i] /= self.row(i)[i];
            for k in 0..i {
                b[k] -= self.row(i)[k] * b[i];
            }
        }
    }
}

/// Inner product over the length of the shorter slice.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Solves the augmented system `[A | b]` by Gauss-Jordan elimination with partial pivoting. `None`
/// if A is singular or not finite.
fn gauss(a: &mut [Vec<f64>]) -> Option<Vec<f64>> {
    let n = a.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs()))?;
        a.swap(k, pivot);
        let row = a[k].clone();
        if row[k] == 0.0 || !row[k].is_finite() {
            return None;
        }
        for (i, other) in a.iter_mut().enumerate() {
            let factor = if i == k {
                1.0 - 1.0 / row[k]
            } else {
                other[k] / row[k]
            };
            other
                .iter_mut()
                .zip(&row)
                .for_each(|(o, r)| *o -= factor * r);
        }
    }
    Some(a.iter().map(|row| row[n]).collect())
}

/// Where the weights are computed.
pub(crate) enum Weights {
    /// Not known before the first step.
    Unset,
    /// On the host, from scalars that are read back.
    Host(Vec<HostWeights>),
    /// On the device.
    Device(Box<DeviceWeights>),
}

impl Weights {
    /// Keeps only these samples.
    pub(crate) fn keep(&mut self, rows: &Rows) {
        match self {
            Self::Unset => {}
            Self::Host(all) => {
                *all = rows.indices().iter().map(|i| all[*i].clone()).collect();
            }
            Self::Device(device) => device.keep(rows),
        }
    }

    /// Forgets all differences.
    pub(crate) fn restart(&mut self) {
        match self {
            Self::Unset => {}
            Self::Host(all) => all.iter_mut().for_each(HostWeights::restart),
            Self::Device(device) => device.restart(),
        }
    }
}

/// The decisions of all samples from scalars on the host.
pub(crate) fn decide(
    samples: &mut [HostWeights],
    scalars: &Scalars,
    slot: usize,
    safeguard: f64,
    accelerate: bool,
) -> Vec<Decision> {
    samples
        .iter_mut()
        .zip(scalars.rows())
        .map(|(sample, (squares, products))| {
            sample.update(squares, products, slot, safeguard, accelerate)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor, TensorData};

    fn weights(gram: [f64; 4], rhs: [f64; 2], ridge: f64) -> HostWeights {
        let config = AndersonConfig::new()
            .with_history(2)
            .with_regularization(ridge);
        let mut w = HostWeights::new(&config, DType::F64);
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
    fn weights_on_the_device_are_those_of_the_host() {
        let device = Device::flex();
        let tensor = |v: Vec<f64>| {
            let n = v.len();
            Tensor::<2>::from_data(TensorData::new(v, [1, n]), (&device, DType::F64))
        };
        // Three differences of a two-dimensional state would be dependent; two are not.
        for kind in [AndersonType::II, AndersonType::I] {
            let config = AndersonConfig::new()
                .with_history(3)
                .with_kind(kind)
                .with_regularization(1e-8);
            let mut host = HostWeights::new(&config, DType::F64);
            let mut on_device = DeviceWeights::new(&config, &tensor(vec![0.0; 4]));
            let steps: [Vec<f64>; 2] = match kind {
                AndersonType::II => [
                    vec![4.0, 0.0, 0.0, -1.0, 0.0, 0.0],
                    vec![1.0, 2.0, 0.0, 0.5, 0.7, 0.0],
                ],
                AndersonType::I => [
                    vec![
                        4.0, 0., 0., -1., 0., 0., -5., 0., 0., -1., 0., 0., 0.2, 0., 0.,
                    ],
                    vec![
                        1., 2., 0., 0.5, 0.7, 0., -0.4, -2.5, 0., 0.3, -0.5, 0., 0.1, -0.6, 0.,
                    ],
                ],
            };
            for (slot, products) in steps.into_iter().enumerate() {
                let decision = host.update([1.0, 1.0], &products, slot, 4.0, true);
                assert_eq!(decision, Decision::Accelerate);
                let squares = tensor(vec![1.0, 1.0]);
                let decision = on_device.update(squares, Some(tensor(products)), slot, 4.0, true);
                let other: Vec<f64> = decision.gamma.into_data().iter::<f64>().collect();
                let gamma = &host.gamma;
                for (a, b) in gamma.iter().zip(&other) {
                    assert!((a - b).abs() < 1e-10, "{kind:?} {gamma:?} {other:?}");
                }
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

    #[test]
    fn gauss_solves_and_names_singular_systems() {
        // The first entry is 0, so elimination needs a pivot.
        let mut a = vec![vec![0.0, 2.0, 4.0], vec![3.0, 1.0, 5.0]];
        let x = gauss(&mut a).unwrap();
        assert!((x[0] - 1.0).abs() < 1e-15 && (x[1] - 2.0).abs() < 1e-15);
        let mut singular = vec![vec![1.0, 2.0, 1.0], vec![2.0, 4.0, 1.0]];
        assert!(gauss(&mut singular).is_none());
    }
}
