//! Spatial smoothness.

use burn::tensor::Tensor;

use super::{Curvature, Hessian, Setting, Term};
use crate::context::{Branches, Context, map_branches, sum_samples};
use crate::graph::{Builder, Combination, Operands, Value};

/// alpha/2 sum of the squared differences between neighbouring pixels, horizontally and vertically.
/// Its gradient is alpha times the discrete Laplacian of the pixel grid with free (Neumann)
/// borders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Smoothness {
    /// alpha.
    pub strength: f64,
}

/// Differences between neighbours along a dimension; `None` if it has one element.
fn differences(z: &Tensor<4>, dim: usize) -> Option<Tensor<4>> {
    let n = z.dims()[dim];
    (n > 1).then(|| z.clone().narrow(dim, 1, n - 1) - z.clone().narrow(dim, 0, n - 1))
}

impl Smoothness {
    fn laplacian(&self, z: &Branches) -> Branches {
        map_branches(z, |z| {
            let mut sum = z.zeros_like();
            for dim in [2, 3] {
                let Some(d) = differences(&z, dim) else {
                    continue;
                };
                // The transpose of the difference: (D'd)_k = d_(k-1) - d_k.
                let border = d.clone().narrow(dim, 0, 1).zeros_like();
                let before = Tensor::cat(vec![border.clone(), d.clone()], dim);
                let after = Tensor::cat(vec![d, border], dim);
                sum = sum + before - after;
            }
            sum * self.strength
        })
    }
}

impl Term for Smoothness {
    fn name(&self) -> &str {
        "smoothness"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let parts = z.iter().flat_map(|z| {
            [2, 3].map(|dim| match differences(z, dim) {
                Some(d) => d.clone() * d,
                None => z.zeros_like(),
            })
        });
        sum_samples(parts) * (0.5 * self.strength)
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        self.laplacian(z)
    }

    fn hessian(&self, _z: &Branches, _x: &Context) -> Option<Hessian> {
        let term = *self;
        Some(Box::new(move |u| term.laplacian(u)))
    }

    fn curvature(&self, _setting: &Setting) -> Curvature {
        // 4 sin^2 < 4 along each of the two dimensions.
        Curvature::new(0.0, 8.0 * self.strength)
    }

    fn injection_gain(&self, _setting: &Setting) -> Option<f64> {
        Some(0.0)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        _x: &Operands,
    ) -> Option<Vec<Combination>> {
        let laplacian = |z: &Value| vec![(self.strength, graph.laplacian(*z))];
        Some(z.iter().map(laplacian).collect())
    }
}
