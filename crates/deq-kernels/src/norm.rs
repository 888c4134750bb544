//! Batch norm, alone and followed by ReLU.

use burn::nn::BatchNorm;
use burn::tensor::Tensor;

use crate::cpu;

/// max(batch norm of x, 0). In training, it updates the running statistics as Burn does.
///
/// # Shapes
///
/// `[batch, channels, height, width]`, in and out.
pub fn norm_relu(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    if let Some(y) = cpu::norm_above(norm, &x, 0.0) {
        return y;
    }
    norm.forward(x).clamp_min(0.0)
}

/// The batch norm of x. In training, it updates the running statistics as Burn does.
///
/// # Shapes
///
/// `[batch, channels, height, width]`, in and out.
pub fn norm(norm: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    if let Some(y) = cpu::norm_above(norm, &x, f32::NEG_INFINITY) {
        return y;
    }
    norm.forward(x)
}
