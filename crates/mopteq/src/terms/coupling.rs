//! Coupling between branches.

use burn::tensor::Tensor;

use super::{Curvature, Formula, Hessian, Pairs, Setting, Term};
use crate::context::{Branches, Context, half_square};
use crate::graph::{Builder, Combination, Operands, Value};
use crate::resample::resample;

/// lambda/2 sum over pairs i < j of |Q_ij z_i - z_j|^2: pulls the branches together.
///
/// Q_ij is the scaled resampling from the finer to the coarser of the two, so the gradient is
/// lambda L z, where L is a Laplacian of branches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coupling {
    /// lambda.
    pub strength: f64,
    /// The pairs.
    pub pairs: Pairs,
}

impl Coupling {
    /// All pairs with this lambda.
    pub fn new(strength: f64) -> Self {
        Self {
            strength,
            pairs: Pairs::All,
        }
    }

    pub(crate) fn pairs(&self, branches: usize) -> impl Iterator<Item = (usize, usize)> {
        let reach = match self.pairs {
            Pairs::All => branches,
            Pairs::Neighbours => 1,
        };
        (0..branches).flat_map(move |i| (i + 1..branches.min(i + reach + 1)).map(move |j| (i, j)))
    }

    /// The finer and the coarser branch of a pair, and z_fine at the coarser resolution minus
    /// z_coarse.
    fn difference(z: &Branches, (i, j): (usize, usize)) -> (usize, usize, Tensor<4>) {
        let area = |k: usize| z[k].dims()[2] * z[k].dims()[3];
        let (fine, coarse) = if area(i) >= area(j) { (i, j) } else { (j, i) };
        let [_, _, height, width] = z[coarse].dims();
        let r = resample(z[fine].clone(), [height, width]) - z[coarse].clone();
        (fine, coarse, r)
    }

    /// lambda L z.
    fn laplacian(&self, z: &Branches) -> Branches {
        let mut sum: Vec<Option<Tensor<4>>> = vec![None; z.len()];
        let mut add = |i: usize, t: Tensor<4>| {
            sum[i] = Some(match sum[i].take() {
                Some(s) => s + t,
                None => t,
            });
        };
        for pair in self.pairs(z.len()) {
            let (fine, coarse, r) = Self::difference(z, pair);
            let r = r * self.strength;
            let [_, _, height, width] = z[fine].dims();
            add(coarse, -r.clone());
            add(fine, resample(r, [height, width]));
        }
        sum.into_iter()
            .zip(z)
            .map(|(s, z)| s.unwrap_or_else(|| z.zeros_like()))
            .collect()
    }
}

impl Term for Coupling {
    fn name(&self) -> &str {
        "coupling"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let [batch, ..] = z[0].dims();
        let zero = Tensor::zeros([batch], (&z[0].device(), z[0].dtype()));
        self.pairs(z.len()).fold(zero, |total, pair| {
            total + half_square(&vec![Self::difference(z, pair).2]) * self.strength
        })
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        self.laplacian(z)
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Option<Hessian> {
        let coupling = *self;
        Some(Box::new(move |u| coupling.laplacian(u)))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        // Q Q' = I, so on the components that the m finest branches resolve and the others do not,
        // L is the Laplacian of a graph of m branches. Its largest eigenvalue grows with m: m for a
        // complete graph, 2 + 2 cos(pi / m) for a path.
        let n = setting.branches as f64;
        let largest = match self.pairs {
            _ if setting.branches < 2 => 0.0,
            Pairs::All => n,
            Pairs::Neighbours => 2.0 + 2.0 * (std::f64::consts::PI / n).cos(),
        };
        let extreme = self.strength * largest;
        Curvature::new(extreme.min(0.0), extreme.max(0.0))
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(0.0)
    }

    fn formula(&self) -> Option<Formula> {
        let Self { strength, pairs } = *self;
        Some(Formula::Coupling { strength, pairs })
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        _x: &Operands,
    ) -> Option<Vec<Combination>> {
        let mut sums: Vec<Combination> = vec![Vec::new(); z.len()];
        let size = |graph: &Builder, k: usize| {
            let [_, height, width] = graph.picture(z[k]);
            [height, width]
        };
        for (i, j) in self.pairs(z.len()) {
            let area = |k: usize| size(graph, k).iter().product::<usize>();
            let (fine, coarse) = if area(i) >= area(j) { (i, j) } else { (j, i) };
            let down = graph.resample(z[fine], size(graph, coarse));
            let r = graph.combine(&[down, (-1.0, z[coarse])]);
            let (factor, up) = graph.resample(r, size(graph, fine));
            sums[coarse].push((-self.strength, r));
            sums[fine].push((self.strength * factor, up));
        }
        Some(sums)
    }
}
