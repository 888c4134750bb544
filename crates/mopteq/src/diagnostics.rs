//! Diagnostics of an equilibrium.

use burn::serde::{Deserialize, Serialize};
use burn::tensor::Tensor;
use burn_deq::FixedPointMap;

use crate::context::{Branches, Context, half_square, inner};
use crate::objective::HiddenObjective;
use crate::perturbation::gaussian;
use crate::resample::resample;

/// One iterate, averaged over the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct IterateRecord {
    /// G.
    pub objective: f64,
    /// The value of each smooth term, in the order of [`Trace::terms`].
    pub terms: Vec<f64>,
    /// |T(z) - z| / |T(z)|.
    pub residual: f64,
}

/// The objective along plain iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct Trace {
    /// Names of the smooth terms.
    pub terms: Vec<String>,
    /// The start and the following iterates.
    pub iterates: Vec<IterateRecord>,
}

/// The objective and its terms along `steps` plain iterations of the map from `z`.
pub fn trace(objective: &HiddenObjective, x: &Context, z: &Branches, steps: usize) -> Trace {
    let mut z = z.clone();
    let iterates = (0..=steps).map(|_| {
        let next = objective.apply(z.clone(), x.clone());
        let change: Branches = next
            .iter()
            .zip(&z)
            .map(|(a, b)| a.clone() - b.clone())
            .collect();
        let size = half_square(&next).sqrt();
        let still = size.clone().equal_elem(0.0);
        let residual = (half_square(&change).sqrt() / size).mask_fill(still, 0.0);
        let record = IterateRecord {
            objective: mean(objective.value(&z, x)),
            terms: objective
                .terms()
                .iter()
                .map(|t| mean(t.value(&z, x)))
                .collect(),
            residual: mean(residual),
        };
        z = next;
        record
    });
    Trace {
        iterates: iterates.collect(),
        terms: objective
            .terms()
            .iter()
            .map(|t| t.name().to_owned())
            .collect(),
    }
}

/// Mean over the samples of |z_i|^2, branch by branch.
pub fn branch_energies(z: &Branches) -> Vec<f64> {
    z.iter()
        .map(|z| mean(half_square(&vec![z.clone()]) * 2.0))
        .collect()
}

/// The agreement of two branches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct Agreement {
    /// Index of a branch.
    pub first: usize,
    /// Index of the other branch.
    pub second: usize,
    /// Mean over the samples of the cosine between the two branches at the coarser resolution.
    pub cosine: f64,
}

/// The agreement of every pair of branches.
pub fn agreement(z: &Branches) -> Vec<Agreement> {
    let mut all = Vec::new();
    for second in 1..z.len() {
        for first in 0..second {
            let size = |k: usize| [z[k].dims()[2], z[k].dims()[3]];
            let (a, b) = (size(first), size(second));
            let size = [a[0].min(b[0]), a[1].min(b[1])];
            let at = |k: usize| vec![resample(z[k].clone(), size)];
            let (a, b) = (at(first), at(second));
            let lengths = (inner(&a, &a) * inner(&b, &b)).sqrt();
            let still = lengths.clone().equal_elem(0.0);
            all.push(Agreement {
                first,
                second,
                cosine: mean((inner(&a, &b) / lengths).mask_fill(still, 0.0)),
            });
        }
    }
    all
}

/// Share of the samples, 0 to 1, whose most likely class changes when Gaussian noise is added to z.
/// The noise has `size` relative to each branch's root mean square. The result is averaged over
/// `draws` draws.
pub fn sensitivity(
    classify: impl Fn(Branches) -> Tensor<2>,
    z: &Branches,
    size: f64,
    draws: usize,
) -> f64 {
    let calm = classify(z.clone()).argmax(1);
    let changed = (0..draws).map(|_| {
        let moved = z.iter().map(|z| gaussian(z.clone(), size)).collect();
        let other = classify(moved).argmax(1).not_equal(calm.clone());
        mean(other.float().flatten::<1>(0, 1))
    });
    changed.sum::<f64>() / draws.max(1) as f64
}

fn mean(values: Tensor<1>) -> f64 {
    values.without_autodiff().mean().into_scalar::<f64>()
}
