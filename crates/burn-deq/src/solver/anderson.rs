//! Anderson acceleration for every sample of a batch at once.

use burn::tensor::{DType, Tensor, TensorData};

use super::square_norm;
use crate::config::AndersonConfig;
use crate::driver::{Iteration, Observation, Operator, Scalars, select};

/// Type-II Anderson acceleration; see [`AndersonConfig`] for the formula and the safeguards.
///
/// The differences live in preallocated `[batch, m, n]` rings on the device. A step computes one
/// row of the Gram matrix of dR and its products with r by one matrix product, reads them back
/// together with the norms, and solves the m x m systems in f64 on the host.
pub(crate) struct Anderson {
    config: AndersonConfig,
    z: Tensor<2>,
    /// f and r at the current iterate, then at the one before.
    current: Option<(Tensor<2>, Tensor<2>)>,
    previous: Option<(Tensor<2>, Tensor<2>)>,
    history: Option<History>,
    /// Slot of the ring that the last difference went to.
    slot: usize,
    observations: usize,
    samples: Vec<Weights>,
}

/// Differences of f and r, `[batch, m, n]` each.
struct History {
    df: Tensor<3>,
    dr: Tensor<3>,
}

impl Anderson {
    pub(crate) fn new(start: Tensor<2>, config: AndersonConfig) -> Self {
        let batch = start.dims()[0];
        let floor = match start.dtype() {
            DType::F64 => 1e-15,
            // Rounding error of the Gram matrix's entries relative to its diagonal.
            _ => 1e-7,
        };
        let ridge = config.regularization.max(floor);
        Self {
            samples: vec![Weights::new(config.history, ridge, config.weight_cap); batch],
            config,
            z: start,
            current: None,
            previous: None,
            history: None,
            slot: 0,
            observations: 0,
        }
    }

    /// Stores the newest differences and returns the scalars `[batch, 2 m]` that they need:
    /// <dR_new, dR_j> and <dR_j, r>.
    fn remember(
        &mut self,
        (f, r): (&Tensor<2>, &Tensor<2>),
        (f0, r0): (&Tensor<2>, &Tensor<2>),
    ) -> Tensor<2> {
        let [batch, width] = f.dims();
        let m = self.config.history;
        self.slot = (self.observations - 2) % m;
        let History { df, dr } = self.history.take().unwrap_or_else(|| {
            let zeros = || Tensor::zeros([batch, m, width], (&f.device(), f.dtype()));
            History {
                df: zeros(),
                dr: zeros(),
            }
        });
        let at = [0..batch, self.slot..self.slot + 1, 0..width];
        let new_df = (f.clone() - f0.clone()).unsqueeze_dim::<3>(1);
        let new_dr = (r.clone() - r0.clone()).unsqueeze_dim::<3>(1);
        // In place, for nothing else holds the rings.
        let df = df.slice_assign(at.clone(), new_df);
        let dr = dr.slice_assign(at, new_dr.clone());
        let pair = Tensor::cat(vec![new_dr, r.clone().unsqueeze_dim::<3>(1)], 1);
        let products = dr.clone().matmul(pair.swap_dims(1, 2));
        let products = products.swap_dims(1, 2).reshape([batch, 2 * m]);
        self.history = Some(History { df, dr });
        products
    }
}

impl Iteration for Anderson {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let f = map.apply(self.z.clone());
        let r = f.clone() - self.z.clone();
        self.observations += 1;
        let mut scalars = vec![square_norm(r.clone()), square_norm(f.clone())];
        if let Some((f0, r0)) = self.previous.take() {
            scalars.push(self.remember((&f, &r), (&f0, &r0)));
            self.previous = Some((f0, r0));
        }
        self.current = Some((f, r));
        Observation {
            state: self.z.clone(),
            scalars: Tensor::cat(scalars, 1),
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, scalars: &Scalars) {
        let Some((f, r)) = self.current.take() else {
            return;
        };
        let m = self.config.history;
        let decisions: Vec<Decision> = self
            .samples
            .iter_mut()
            .zip(scalars.rows())
            .map(|(sample, row)| sample.update(row, self.slot, self.config.safeguard))
            .collect();

        let damping = self.config.damping;
        let mut next = f.clone();
        if damping != 1.0 {
            next = next - r.clone() * (1.0 - damping);
        }
        let weights: Vec<f64> = decisions
            .iter()
            .flat_map(|d| match d {
                Decision::Accelerate(gamma) => gamma.clone(),
                _ => vec![0.0; m],
            })
            .collect();
        if let Some(history) = &self.history
            && weights.iter().any(|w| *w != 0.0)
        {
            let data = TensorData::new(weights, [decisions.len(), 1, m]);
            let gamma = Tensor::<3>::from_data(data, (&f.device(), f.dtype()));
            next = next - gamma.clone().matmul(history.df.clone()).squeeze_dim::<2>(1);
            if damping != 1.0 {
                let dr = gamma.matmul(history.dr.clone()).squeeze_dim::<2>(1);
                next = next + dr * (1.0 - damping);
            }
        }
        let back: Vec<bool> = decisions
            .iter()
            .map(|d| matches!(d, Decision::TakeBack))
            .collect();
        if let Some((f0, r0)) = self.previous.take()
            && back.contains(&true)
        {
            next = select(&back, f0 - r0 * (1.0 - damping), next);
        }
        self.previous = Some((f, r));
        self.z = next;
    }
}

/// What to do with one sample.
enum Decision {
    /// A step without history.
    Plain,
    /// A step with these weights.
    Accelerate(Vec<f64>),
    /// The last accelerated step made things worse: a plain step from the point before it.
    TakeBack,
}

/// The least-squares problem of one sample, on the host.
#[derive(Clone)]
struct Weights {
    ridge: f64,
    cap: f64,
    /// <dR_i, dR_j>, m x m.
    gram: Vec<f64>,
    /// <dR_j, r>.
    rhs: Vec<f64>,
    /// Slots that hold differences of this sample since its last restart.
    valid: Vec<bool>,
    /// Squared residual before the last step, and whether that step was accelerated.
    last: Option<f64>,
    accelerated: bool,
}

impl Weights {
    fn new(m: usize, ridge: f64, cap: f64) -> Self {
        Self {
            ridge,
            cap,
            gram: vec![0.0; m * m],
            rhs: vec![0.0; m],
            valid: vec![false; m],
            last: None,
            accelerated: false,
        }
    }

    /// Takes in the scalars of one observation and decides about the step.
    fn update(&mut self, row: &[f64], slot: usize, safeguard: f64) -> Decision {
        let squared_residual = row[0];
        let m = self.rhs.len();
        if row.len() > 2 {
            let (gram, rhs) = row[2..].split_at(m);
            for (j, product) in gram.iter().enumerate() {
                self.gram[slot * m + j] = *product;
                self.gram[j * m + slot] = *product;
            }
            self.rhs.copy_from_slice(rhs);
            self.valid[slot] = gram[slot] > 0.0 && gram[slot].is_finite();
        }
        let worse = self
            .last
            .is_some_and(|last| squared_residual > safeguard * safeguard * last);
        if self.accelerated && worse {
            // The residual to beat stays that of the point before.
            self.valid.fill(false);
            self.accelerated = false;
            return Decision::TakeBack;
        }
        self.last = Some(squared_residual);
        match self.solve(slot) {
            Some(gamma) => {
                self.accelerated = true;
                Decision::Accelerate(gamma)
            }
            None => {
                self.accelerated = false;
                Decision::Plain
            }
        }
    }

    /// gamma by Cholesky's method on the Gram matrix scaled to a unit diagonal, so that neither
    /// the scale of z nor the shrinking of the residuals matters. The newest difference comes
    /// first, and one that depends on newer ones is left out: with more differences than
    /// dimensions the old ones would drown the new. `None` without history, or when the weights
    /// exceed the cap (then the history is dropped).
    fn solve(&mut self, newest: usize) -> Option<Vec<f64>> {
        let m = self.rhs.len();
        let mut slots = Vec::with_capacity(m);
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(m);
        for j in (0..m)
            .map(|age| (newest + m - age) % m)
            .filter(|j| self.valid[*j])
        {
            let column: Vec<f64> = slots.iter().map(|i| self.correlation(*i, j)).collect();
            if let Some(row) = cholesky_row(&factor, column, self.ridge) {
                factor.push(row);
                slots.push(j);
            }
        }
        if slots.is_empty() {
            return None;
        }
        let scale = |j: &usize| self.gram[j * m + j].sqrt();
        let mut x: Vec<f64> = slots.iter().map(|j| self.rhs[*j] / scale(j)).collect();
        cholesky_solve(&factor, &mut x);
        let mut gamma = vec![0.0; m];
        for (x, j) in x.iter().zip(&slots) {
            gamma[*j] = x / scale(j);
        }
        if gamma.iter().map(|g| g.abs()).sum::<f64>() <= self.cap {
            Some(gamma)
        } else {
            self.valid.fill(false);
            None
        }
    }

    /// Cosine of the angle between dR_i and dR_j.
    fn correlation(&self, i: usize, j: usize) -> f64 {
        let m = self.rhs.len();
        self.gram[i * m + j] / (self.gram[i * m + i] * self.gram[j * m + j]).sqrt()
    }
}

/// The next row of the Cholesky factor of a matrix with diagonal 1 + ridge, given the entries
/// left of the diagonal. `None` when the new column depends on the others: when what is left of
/// its unit length drowns in rounding.
fn cholesky_row(factor: &[Vec<f64>], mut row: Vec<f64>, ridge: f64) -> Option<Vec<f64>> {
    for i in 0..row.len() {
        let dot: f64 = factor[i][..i].iter().zip(&row).map(|(l, r)| l * r).sum();
        row[i] = (row[i] - dot) / factor[i][i];
    }
    let left = 1.0 + ridge - row.iter().map(|l| l * l).sum::<f64>();
    // NaN counts as dependent, too.
    (left > 4.0 * ridge).then(|| {
        row.push(left.sqrt());
        row
    })
}

/// Solves L L' x = b; x replaces b.
fn cholesky_solve(factor: &[Vec<f64>], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let dot: f64 = factor[i][..i].iter().zip(&b[..i]).map(|(l, x)| l * x).sum();
        b[i] = (b[i] - dot) / factor[i][i];
    }
    for i in (0..n).rev() {
        let dot: f64 = (i + 1..n).map(|k| factor[k][i] * b[k]).sum();
        b[i] = (b[i] - dot) / factor[i][i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(gram: [f64; 4], rhs: [f64; 2], ridge: f64) -> Weights {
        let mut w = Weights::new(2, ridge, 1e4);
        w.gram = gram.to_vec();
        w.rhs = rhs.to_vec();
        w.valid = vec![true, true];
        w
    }

    #[test]
    fn weights_minimise_the_regularised_least_squares() {
        // Stationarity: (G + ridge diag(G)) gamma = rhs.
        let mut w = weights([4.0, 1.0, 1.0, 2.0], [1.0, -3.0], 1e-2);
        let gamma = w.solve(0).unwrap();
        for i in 0..2 {
            let lhs = (0..2).map(|j| w.gram[i * 2 + j] * gamma[j]).sum::<f64>()
                + 1e-2 * w.gram[i * 2 + i] * gamma[i];
            assert!((lhs - w.rhs[i]).abs() < 1e-14);
        }
    }

    #[test]
    fn of_two_equal_differences_the_newer_is_used() {
        let mut w = weights([1.0, 1.0, 1.0, 1.0], [1.0, 1.0], 1e-15);
        let gamma = w.solve(1).unwrap();
        assert_eq!(gamma[0], 0.0);
        assert!((gamma[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn weights_that_are_too_large_or_not_finite_are_refused() {
        assert!(
            weights([1.0, 0.0, 0.0, 1e-12], [0.0, 1.0], 1e-15)
                .solve(0)
                .is_none()
        );
        assert!(
            weights([1.0, 0.0, 0.0, 1.0], [f64::NAN, 1.0], 1e-15)
                .solve(0)
                .is_none()
        );
        assert!(
            weights([1.0, f64::NAN, f64::NAN, 1.0], [0.5, 1.0], 1e-15)
                .solve(0)
                .is_some()
        );
    }
}
