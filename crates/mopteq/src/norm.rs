//! Bounds on the norm of a convolution at its actual resolution.

use burn::module::{Initializer, Module, Param, RunningState};
use burn::tensor::{Device, Distribution, Tensor};
use deq_kernels::convolution::{convolve, transposed};

/// A convolution kernel whose operator norm is kept at or below a bound.
///
/// The kernel in use is W min(1, bound / ||W||). Power iteration on the convolution itself, with
/// its padding and resolution, estimates ||W||. (Miyato et al. 2018, arXiv:1802.05957, use the
/// reshaped matrix instead, which misestimates the norm of convolutions.) The iterate is kept from
/// one training step to the next, so one iteration per step is enough. The gradient treats the
/// singular vectors as constants, which is exact for a simple largest singular value.
#[derive(Module, Debug)]
pub struct BoundedKernel {
    /// The free parameter W, `[out, in, k, k]`.
    pub weight: Param<Tensor<4>>,
    /// Right singular vector of the largest singular value, `[1, in, height, width]`.
    direction: RunningState<Tensor<4>>,
    bound: f64,
    /// Whether kernels of a smaller norm are scaled up to the bound.
    exact: bool,
}

impl BoundedKernel {
    /// Creates a bounded kernel for inputs of `[channels_in, height, width]`, with the
    /// initialisation of Kaiming et al. (2015).
    pub fn new(
        [channels_out, channels_in, size]: [usize; 3],
        [height, width]: [usize; 2],
        bound: f64,
        device: &Device,
    ) -> Self {
        let initializer = Initializer::KaimingUniform {
            gain: 1.0,
            fan_out_only: false,
        };
        let fan = size * size;
        let weight: Param<Tensor<4>> = initializer.init_with(
            [channels_out, channels_in, size, size],
            Some(channels_in * fan),
            Some(channels_out * fan),
            device,
        );
        let start = Tensor::random(
            [1, channels_in, height, width],
            Distribution::Normal(0.0, 1.0),
            device,
        );
        let kernel = weight.val().without_autodiff();
        let host = deq_kernels::host(device);
        let [kernel, mut direction] =
            [kernel, start.without_autodiff()].map(|t| t.to_device(&host));
        for _ in 0..30 {
            direction = power_step(kernel.clone(), direction);
        }
        let direction = direction.to_device(&device.clone().without_autodiff());
        let direction = if device.is_autodiff() {
            direction.autodiff()
        } else {
            direction
        };
        Self {
            weight,
            direction: RunningState::new(direction),
            bound,
            exact: false,
        }
    }

    /// As [`new`](Self::new). The kernel in use always has this norm, so a smaller one is scaled up.
    pub fn scaled(shape: [usize; 3], size: [usize; 2], norm: f64, device: &Device) -> Self {
        Self {
            exact: true,
            ..Self::new(shape, size, norm, device)
        }
    }

    /// The bounded kernel. With autodiff, it first improves the estimate of the norm by one
    /// iteration.
    pub fn kernel(&self) -> Tensor<4> {
        let weight = self.weight.val();
        let plain = weight.clone().without_autodiff();
        // Clones of a module share their running states, even across devices.
        let direction = self.direction.value_sync().without_autodiff();
        let mut direction = direction.to_device(&plain.device());
        if weight.is_autodiff() {
            direction = power_step(plain, direction);
            self.direction.update(direction.clone().autodiff());
        }
        let image = convolve(direction, weight.clone());
        let norm = image.clone().mul(image).sum().sqrt();
        let factor = norm.recip() * self.bound;
        let factor = match self.exact {
            true => factor,
            false => factor.clamp_max(1.0),
        };
        weight * factor.reshape([1, 1, 1, 1])
    }

    /// All these kernels, bounded in as few operations as the device allows.
    pub(crate) fn kernels(all: &[Self]) -> Vec<Tensor<4>> {
        let weights: Vec<Tensor<4>> = all.iter().map(|k| k.weight.val()).collect();
        let Some(first) = weights.first() else {
            return Vec::new();
        };
        let (tracked, device) = (first.is_autodiff(), first.device().without_autodiff());
        let direction = |k: &Self| {
            let direction = k.direction.value_sync().without_autodiff();
            direction.to_device(&device)
        };
        let directions: Vec<_> = all.iter().map(direction).collect();
        let bounds: Vec<f64> = all.iter().map(|k| k.bound).collect();
        let exact = all.iter().any(|k| k.exact);
        let together = (!exact)
            .then(|| deq_kernels::bounded(&weights, &directions, &bounds, tracked))
            .flatten();
        match together {
            Some((kernels, directions)) => {
                if tracked {
                    for (k, direction) in all.iter().zip(directions) {
                        k.direction.update(direction.autodiff());
                    }
                }
                kernels
            }
            None => all.iter().map(Self::kernel).collect(),
        }
    }

    /// The bound.
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// Norm of the bounded kernel at its resolution, by power iteration from a random start.
    pub fn norm(&self, iterations: usize) -> f64 {
        let [_, _, height, width] = self.direction.value_sync().dims();
        let plain = self.valid();
        convolution_norm(plain.kernel(), [height, width], iterations)
    }
}

/// One power iteration on W'W, normalised.
fn power_step(kernel: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    let v = convolve(convolve(v, kernel.clone()), transposed(kernel));
    let norm = v.clone().mul(v.clone()).sum().sqrt().clamp_min(1e-30);
    v / norm.reshape([1, 1, 1, 1])
}

/// Operator norm of the convolution with `kernel`, `[out, in, k, k]`, on inputs of the given
/// resolution, by power iteration from a random start. The result is a lower bound that is close
/// after some tens of iterations.
pub fn convolution_norm(kernel: Tensor<4>, [height, width]: [usize; 2], iterations: usize) -> f64 {
    let kernel = kernel.without_autodiff();
    let channels = kernel.dims()[1];
    let options = (&kernel.device(), kernel.dtype());
    let mut v = Tensor::random([1, channels, height, width], Distribution::Default, options);
    for _ in 0..iterations {
        v = power_step(kernel.clone(), v);
    }
    let image = convolve(v, kernel);
    image.clone().mul(image).sum().sqrt().into_scalar::<f64>()
}
