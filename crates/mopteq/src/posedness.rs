//! Whether the equilibrium is well posed: guaranteed and measured constants.

use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Distribution, Tensor};

use crate::context::{Branches, Context, map_branches};
use crate::models::Core;

/// Guaranteed and measured constants of a model's map.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct WellPosedness {
    /// Norms of the bounded blocks of W, estimated from below by power iteration.
    pub kernel_norms: Vec<f64>,
    /// Bound on the norm of W.
    pub norm_bound: f64,
    /// mu > 0 if the terms guarantee that the smooth objective is strongly convex with this
    /// constant. The equilibrium is then unique.
    pub strong_convexity: Option<f64>,
    /// The guaranteed Lipschitz constant of the map, if it is below 1.
    pub guaranteed_contraction: Option<f64>,
    /// Largest modulus of an eigenvalue of J at the given points: the asymptotic contraction factor
    /// of plain iteration.
    pub measured_contraction: f64,
    /// Smallest eigenvalue of I - J at the given points. If it is positive, the equilibrium is
    /// locally unique and the backward system can be solved.
    pub smallest_eigenvalue: f64,
}

/// The constants of a model at the states `z`, from `steps` Lanczos steps per sample. The measured
/// ones are the worst over the samples. Both estimates are optimistic.
pub fn well_posedness(core: &Core, x: &Context, z: &Branches, steps: usize) -> WellPosedness {
    let jacobian = core.objective().linearise(z, x);
    let extremes = extreme_eigenvalues(|u| jacobian.similar(u), z, steps);
    let smallest = extremes.iter().map(|e| e.0).fold(f64::INFINITY, f64::min);
    let largest = extremes
        .iter()
        .map(|e| e.1)
        .fold(f64::NEG_INFINITY, f64::max);
    WellPosedness {
        kernel_norms: core.norms(100),
        norm_bound: core.config().norm_bound,
        strong_convexity: core.objective().curvature().strong_convexity(),
        guaranteed_contraction: core.objective().contraction(),
        measured_contraction: smallest.abs().max(largest.abs()),
        smallest_eigenvalue: 1.0 - largest,
    }
}

/// Smallest and largest eigenvalue of a symmetric linear map for every sample, by `steps` steps of
/// the Lanczos process (Lanczos 1950) with full reorthogonalisation from a random start in the
/// shape of `like`. Both lie inside the spectrum and approach its ends with more steps.
pub fn extreme_eigenvalues(
    apply: impl Fn(Branches) -> Branches,
    like: &Branches,
    steps: usize,
) -> Vec<(f64, f64)> {
    let batch = like[0].dims()[0];
    let noise = |z: Tensor<4>| {
        let options = (&z.device(), z.dtype());
        Tensor::random(z.dims(), Distribution::Normal(0.0, 1.0), options)
    };
    let (mut v, _) = normalised(pack(&map_branches(like, noise)));
    let mut basis: Vec<Tensor<2>> = Vec::new();
    // Diagonal and off-diagonal of each sample's tridiagonal matrix.
    let mut tridiagonal = vec![(Vec::new(), Vec::new()); batch];
    for _ in 0..steps.max(1) {
        let w = pack(&apply(unpack(v.clone(), like)));
        let alpha = read((w.clone() * v.clone()).sum_dim(1));
        basis.push(v);
        // Twice is enough (Kahan and Parlett).
        let w = (0..2).fold(w, |w, _| {
            basis
                .iter()
                .fold(w, |w, b| w.clone() - b.clone() * (w * b.clone()).sum_dim(1))
        });
        let (next, beta) = normalised(w);
        v = next;
        for (s, ((diagonal, off), (a, b))) in tridiagonal
            .iter_mut()
            .zip(alpha.into_iter().zip(beta))
            .enumerate()
        {
            debug_assert!(s < batch);
            // A sample whose Krylov space is exhausted is finished.
            let scale: f64 = diagonal
                .iter()
                .fold(a.abs(), |m: f64, d: &f64| m.max(d.abs()));
            let open = diagonal.len() == off.len();
            if open {
                diagonal.push(a);
                if b > 1e-10 * scale.max(1e-300) {
                    off.push(b);
                }
            }
        }
    }
    tridiagonal
        .iter()
        .map(|(diagonal, off)| ends(diagonal, off))
        .collect()
}

/// Rows scaled to length 1, and their lengths. A row that has vanished becomes 0.
fn normalised(w: Tensor<2>) -> (Tensor<2>, Vec<f64>) {
    let length = (w.clone() * w.clone()).sum_dim(1).sqrt();
    let gone = length.clone().lower_equal_elem(1e-30);
    let lengths = read(length.clone());
    let factor = length.recip().mask_fill(gone, 0.0);
    (w * factor, lengths)
}

fn read(column: Tensor<2>) -> Vec<f64> {
    column.into_data().iter::<f64>().collect()
}

fn pack(z: &Branches) -> Tensor<2> {
    Tensor::cat(z.iter().map(|z| z.clone().flatten::<2>(1, 3)).collect(), 1)
}

fn unpack(v: Tensor<2>, like: &Branches) -> Branches {
    let mut start = 0;
    like.iter()
        .map(|z| {
            let dims = z.dims();
            let width = dims[1..].iter().product();
            let part = v.clone().narrow(1, start, width);
            start += width;
            part.reshape(dims)
        })
        .collect()
}

/// Smallest and largest eigenvalue of a symmetric tridiagonal matrix, by bisection on the number of
/// negative pivots (Sturm).
fn ends(diagonal: &[f64], off: &[f64]) -> (f64, f64) {
    let n = diagonal.len();
    let b = |i: usize| {
        if i + 1 < n {
            off.get(i).copied().unwrap_or(0.0)
        } else {
            0.0
        }
    };
    let radius = |i: usize| b(i).abs() + if i > 0 { b(i - 1).abs() } else { 0.0 };
    let low = (0..n)
        .map(|i| diagonal[i] - radius(i))
        .fold(f64::INFINITY, f64::min);
    let high = (0..n)
        .map(|i| diagonal[i] + radius(i))
        .fold(f64::NEG_INFINITY, f64::max);
    // Number of eigenvalues below x.
    let below = |x: f64| {
        let mut pivot = 1.0f64;
        (0..n)
            .filter(|i| {
                let square = if *i > 0 { b(i - 1).powi(2) } else { 0.0 };
                pivot = diagonal[*i] - x - square / pivot;
                if pivot == 0.0 {
                    pivot = -f64::MIN_POSITIVE;
                }
                pivot < 0.0
            })
            .count()
    };
    let bisect = |count: usize| {
        let (mut a, mut z) = (
            low - 1e-12 - low.abs() * 1e-12,
            high + 1e-12 + high.abs() * 1e-12,
        );
        for _ in 0..100 {
            let middle = 0.5 * (a + z);
            if below(middle) >= count {
                z = middle;
            } else {
                a = middle;
            }
        }
        0.5 * (a + z)
    };
    (bisect(1), bisect(n))
}
