//! Regularisers and diagnostics of the Jacobian J = df/dz at a point.

use burn::config::Config;
use burn::tensor::{DType, Distribution, Tensor};
use deq_kernels::vectors::{ratio, square_norm};

use crate::forward::Forward;
use crate::input::Input;
use crate::linearised::Linearised;
use crate::map::FixedPointMap;
use crate::state::{Packing, State};

/// Settings of [`jacobian_norm`].
#[derive(Config, Debug, PartialEq)]
pub struct JacobianNormConfig {
    /// Number of random directions that are averaged. The estimate's standard deviation falls with
    /// its square root. Default: 1
    #[config(default = 1)]
    pub probes: usize,
    /// Step of the central difference relative to the root mean square of z (to 1 if z = 0).
    /// Default: the cube root of the type's rounding error, which balances truncation and rounding
    pub step: Option<f64>,
}

impl Default for JacobianNormConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// Estimates ||J||_F^2, the squared Frobenius norm of J = df/dz at z, for every sample: `[batch]`.
///
/// E |Jv|^2 = ||J||_F^2 for random v with independent entries of mean 0 and variance 1 (Hutchinson
/// 1990; as a regulariser of equilibrium networks Bai, Koltun and Kolter 2021, arXiv:2106.14342).
/// Burn differentiates only once, so Jv is the map's closed form if it has one
/// ([`Jacobian::jvp`](crate::Jacobian::jvp)), and otherwise a central difference of f. You can
/// train on the result: it has gradients for the tracked tensors in x. z counts as a constant.
///
/// # Example
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::prelude::*;
/// use burn_deq::{JacobianNormConfig, WithModule, jacobian_norm};
///
/// # let device = Device::flex();
/// let module = LinearConfig::new(4, 4).init(&device).train();
/// let x = WithModule { module, input: () };
/// let f = |z: Tensor<2>, x: WithModule<burn::nn::Linear, ()>| x.module.forward(z).tanh();
/// let z = Tensor::<2>::zeros([3, 4], &device);
/// let penalty = jacobian_norm(&f, &x, z, &JacobianNormConfig::new()).mean();
/// let gradients = penalty.backward();
/// assert!(x.module.weight.val().grad(&gradients).is_some());
/// ```
pub fn jacobian_norm<S: State, X: Input, F: FixedPointMap<S, X>>(
    map: &F,
    x: &X,
    z: S,
    config: &JacobianNormConfig,
) -> Tensor<1> {
    let (z, packing) = Packing::pack(z);
    let z = z.without_autodiff();
    let [batch, width] = z.dims();
    let apply = |z: Tensor<2>| packing.repack(map.apply(packing.unpack(z), x.clone()));
    let closed_form = map.jacobian(packing.unpack(z.clone()), x.clone());
    let rms = (square_norm(z.clone()) / width.max(1) as f64).sqrt();
    let solid = rms.clone().greater_elem(0.0);
    let size = rms.ones_like().mask_where(solid, rms);
    let default_step = match z.dtype() {
        DType::F64 => 6e-6,
        _ => 5e-3,
    };
    let h = size * config.step.unwrap_or(default_step);
    let probes = config.probes.max(1);
    let mut total: Option<Tensor<2>> = None;
    for _ in 0..probes {
        let signs = Distribution::Bernoulli(0.5);
        let v = Tensor::random([batch, width], signs, (&z.device(), z.dtype())) * 2.0 - 1.0;
        let image = closed_form
            .as_ref()
            .and_then(|j| j.jvp(packing.unpack(v.clone())))
            .map(|image| packing.repack(image));
        let image = image.unwrap_or_else(|| {
            let step = v * h.clone();
            (apply(z.clone() + step.clone()) - apply(z.clone() - step)) / (h.clone() * 2.0)
        });
        let square = square_norm(image);
        total = Some(match total {
            Some(sum) => sum + square,
            None => square,
        });
    }
    match total {
        Some(sum) => (sum / probes as f64).squeeze_dim(1),
        None => Tensor::zeros([batch], (&z.device(), z.dtype())),
    }
}

/// Estimates the spectral radius of J = df/dz at z, one value per sample of z.
///
/// The estimate is the growth of |J'^k v| over the second half of `iterations` products. It is also
/// correct for complex pairs of eigenvalues, where a Rayleigh quotient sees only the real part. The
/// error falls like 1 / iterations for defective and for strongly non-normal J, and geometrically
/// if one eigenvalue dominates.
pub fn spectral_radius<S: State, X: Input, F: FixedPointMap<S, X>>(
    map: &F,
    x: &X,
    z: S,
    iterations: usize,
) -> Vec<f64> {
    let (z, packing) = Packing::pack(z);
    let z = z.without_autodiff();
    let [batch, width] = z.dims();
    let iterations = iterations.max(2);
    if batch * width == 0 {
        return vec![0.0; batch];
    }
    let options = (&z.device(), z.dtype());
    let mut v = Tensor::random([batch, width], Distribution::Normal(0.0, 1.0), options);
    let forward = Forward {
        map,
        x: x.plain(),
        packing: &packing,
    };
    let linearised = Linearised::<S, F, X>::new(forward, z, None);
    let mut growths = Vec::new();
    for k in 0..=iterations {
        // The first norm is that of the random start.
        if k > 0 {
            v = linearised.vjp(v);
        }
        let growth = square_norm(v.clone()).sqrt();
        v = v * ratio(growth.ones_like(), growth.clone());
        if k > iterations / 2 {
            growths.push(growth);
        }
    }
    let count = growths.len();
    let values: Vec<f64> = Tensor::cat(growths, 1).into_data().iter::<f64>().collect();
    values
        .chunks_exact(count)
        .map(|row| (row.iter().map(|g| g.ln()).sum::<f64>() / count as f64).exp())
        .collect()
}
