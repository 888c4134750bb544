//! Small dense systems in f64.

use super::rule::dependent;

/// The Cholesky factor of a matrix with diagonal 1 + ridge, row by row.
#[derive(Clone)]
pub(super) struct Cholesky {
    /// The packed lower triangle.
    entries: Vec<f64>,
    ridge: f64,
}

impl Cholesky {
    pub(super) fn new(ridge: f64) -> Self {
        Self {
            entries: Vec::new(),
            ridge,
        }
    }

    /// Removes all rows.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Row i up to and including the diagonal.
    fn row(&self, i: usize) -> &[f64] {
        let start = i * (i + 1) / 2;
        &self.entries[start..=start + i]
    }

    /// Adds a row, given the entries left of the diagonal. Returns false if the row depends on the
    /// others, that is, if the remainder of its unit length is within rounding error.
    #[inline]
    pub(super) fn grow(&mut self, row: impl Iterator<Item = f64>) -> bool {
        let start = self.entries.len();
        let mut left = 1.0 + self.ridge;
        for (i, entry) in row.enumerate() {
            let above = self.row(i);
            let entry = (entry - dot(above, &self.entries[start..])) / above[i];
            left -= entry * entry;
            self.entries.push(entry);
        }
        // NaN counts as dependent.
        let independent = left - self.ridge > dependent(self.ridge);
        if independent {
            self.entries.push(left.sqrt());
        } else {
            self.entries.truncate(start);
        }
        independent
    }

    /// Solves L L' x = b; x replaces b.
    #[inline]
    pub(super) fn solve(&self, b: &mut [f64]) {
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
pub(super) fn gauss(a: &mut [Vec<f64>]) -> Option<Vec<f64>> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
