//! Means over the cells of a coarser grid.

use burn::tensor::Tensor;
use burn::tensor::module::adaptive_avg_pool2d;

use crate::cpu;

/// The means over the cells of a grid of `[height, width]`.
///
/// # Shapes
///
/// `[batch, channels, h, w] -> [batch, channels, height, width]`.
pub fn mean_pool(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    if let Some(y) = cpu::mean_pool(&x, size) {
        return y;
    }
    adaptive_avg_pool2d(x, size)
}
