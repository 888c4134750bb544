//! Means over the cells of a coarser grid, and repetition on a finer one.

use burn::tensor::Tensor;
use burn::tensor::module::{adaptive_avg_pool2d, avg_pool2d, interpolate};
use burn::tensor::ops::{AvgPoolOptions, InterpolateMode, InterpolateOptions};

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
    let [_, _, h, w] = x.dims();
    let [height, width] = size.map(|n| n.max(1));
    match h % height == 0 && w % width == 0 {
        true => avg_pool2d(x, AvgPoolOptions::new([h / height, w / width])),
        false => adaptive_avg_pool2d(x, size),
    }
}

/// Repeats every pixel over a cell of `[vertical, horizontal]` pixels.
///
/// # Shapes
///
/// `[batch, channels, h, w] -> [batch, channels, vertical h, horizontal w]`.
pub fn repeat(x: Tensor<4>, cell: [usize; 2]) -> Tensor<4> {
    if let Some(y) = cpu::repeat(&x, cell) {
        return y;
    }
    let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
    interpolate(x, nearest.with_scale_factor(cell.map(|n| n as f32)))
}
