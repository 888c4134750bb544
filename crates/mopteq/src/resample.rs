//! Resampling between branches as an exactly adjoint pair of norm 1.
//!
//! With s the ratio of the resolutions, Q = s * (average pooling by s) and
//! Q' = (nearest up-sampling by s) / s. Plain pooling one way and plain up-sampling the other are
//! not adjoint, so no objective would have them in its gradient.

use burn::tensor::Tensor;
use burn::tensor::module::{avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};

/// Q: `[batch, channels, s h, s w] -> [batch, channels, h, w]`.
///
/// # Panics
///
/// Panics if a side is not divisible by s.
pub fn scaled_pool(x: Tensor<4>, s: usize) -> Tensor<4> {
    if s == 1 {
        return x;
    }
    let [_, _, h, w] = x.dims();
    assert!(
        h % s == 0 && w % s == 0,
        "{h} x {w} pixels cannot be pooled by {s}"
    );
    avg_pool2d(x, AvgPoolOptions::new([s, s])) * s as f64
}

/// Q', the transpose of [`scaled_pool`]: `[batch, channels, h, w] -> [batch, channels, s h, s w]`.
pub fn scaled_upsample(x: Tensor<4>, s: usize) -> Tensor<4> {
    if s == 1 {
        return x;
    }
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(
        x / s as f64,
        nearest.with_scale_factor([s as f32, s as f32]),
    )
}
