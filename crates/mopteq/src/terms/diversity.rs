//! Diversity between branches.

use burn::tensor::Tensor;

use super::term::zeros_like;
use super::{Hessian, Term};
use crate::context::{Branches, Context, sum_samples};
use crate::resample::resample;

/// beta/2 sum over pairs i < j of HSIC(z_i, z_j): pushes branches to hold different information.
///
/// The Hilbert-Schmidt independence criterion (Gretton et al. 2005) with a linear kernel on both
/// sides is the squared Frobenius norm of the cross-covariance. The observations are the pixels of
/// one sample at the resolution of the coarser branch, so samples do not mix:
///
/// HSIC = |A B'/P|^2, where A, B `[channels, P]` are the two branches minus their means over the P
/// pixels.
///
/// The term is quadratic in each branch separately, so it is neither convex nor of bounded
/// curvature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// beta.
    pub strength: f64,
}

/// z at the given resolution minus its mean over the pixels: `[batch, channels, pixels]`. A linear
/// map of z.
fn centred(z: &Tensor<4>, size: [usize; 2]) -> Tensor<3> {
    let flat = resample(z.clone(), size).flatten::<3>(2, 3);
    flat.clone() - flat.mean_dim(2)
}

/// The transpose of [`centred`].
fn spread(g: Tensor<3>, [h, w]: [usize; 2], like: &Tensor<4>) -> Tensor<4> {
    let g = g.clone() - g.mean_dim(2);
    let [batch, channels, height, width] = like.dims();
    resample(g.reshape([batch, channels, h, w]), [height, width])
}

/// The pairs of branches with the resolution at which they are compared.
fn pairs(z: &Branches) -> Vec<(usize, usize, [usize; 2])> {
    let size = |k: usize| [z[k].dims()[2], z[k].dims()[3]];
    (0..z.len())
        .flat_map(|i| (i + 1..z.len()).map(move |j| (i, j)))
        .map(|(i, j)| {
            let (a, b) = (size(i), size(j));
            (i, j, [a[0].min(b[0]), a[1].min(b[1])])
        })
        .collect()
}

impl Diversity {
    /// beta / P^2.
    fn scale(&self, [h, w]: [usize; 2]) -> f64 {
        self.strength / ((h * w) as f64).powi(2)
    }
}

impl Term for Diversity {
    fn name(&self) -> &str {
        "diversity"
    }

    fn value(&self, z: &Branches, _x: &Context) -> Tensor<1> {
        let zero = sum_samples([z[0].zeros_like()]);
        pairs(z).into_iter().fold(zero, |total, (i, j, size)| {
            let (a, b) = (centred(&z[i], size), centred(&z[j], size));
            let covariance = a.matmul(b.transpose()).unsqueeze_dim::<4>(1);
            let square = covariance.clone() * covariance;
            total + sum_samples([square]) * (0.5 * self.scale(size))
        })
    }

    fn gradient(&self, z: &Branches, _x: &Context) -> Branches {
        let mut sum = zeros_like(z);
        for (i, j, size) in pairs(z) {
            let (a, b) = (centred(&z[i], size), centred(&z[j], size));
            let c = a.clone().matmul(b.clone().transpose()) * self.scale(size);
            let ga = spread(c.clone().matmul(b), size, &z[i]);
            let gb = spread(c.transpose().matmul(a), size, &z[j]);
            sum[i] = sum[i].clone() + ga;
            sum[j] = sum[j].clone() + gb;
        }
        sum
    }

    fn hessian(&self, z: &Branches, _x: &Context) -> Option<Hessian> {
        let (term, z) = (*self, z.clone());
        Some(Box::new(move |u| {
            let mut sum = zeros_like(u);
            for (i, j, size) in pairs(u) {
                let (a, b) = (centred(&z[i], size), centred(&z[j], size));
                let (da, db) = (centred(&u[i], size), centred(&u[j], size));
                let scale = term.scale(size);
                let c = a.clone().matmul(b.clone().transpose()) * scale;
                let dc = (da.clone().matmul(b.clone().transpose())
                    + a.clone().matmul(db.clone().transpose()))
                    * scale;
                let ha = dc.clone().matmul(b) + c.clone().matmul(db);
                let hb = dc.transpose().matmul(a) + c.transpose().matmul(da);
                sum[i] = sum[i].clone() + spread(ha, size, &u[i]);
                sum[j] = sum[j].clone() + spread(hb, size, &u[j]);
            }
            sum
        }))
    }
}
