//! Means over the cells of a coarser grid.

use burn::tensor::Tensor;
use burn_deq::custom_gradient;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{Floats, tensor};

/// Means over cells of equal size, with their gradient; `None` where only the portable path
/// applies.
pub(crate) fn pool(x: &Tensor<4>, [height, width]: [usize; 2]) -> Option<Tensor<4>> {
    let [batch, channels, h, w] = x.dims();
    let whole = |n: usize, cells: usize| cells > 0 && n > 0 && n.is_multiple_of(cells);
    if !whole(h, height) || !whole(w, width) || batch * channels == 0 {
        return None;
    }
    let from = Floats::new(&x.clone().without_autodiff())?;
    let grid = Grid {
        fine: [h, w],
        coarse: [height, width],
    };
    let mut means = vec![0.0; batch * channels * height * width];
    means
        .par_chunks_exact_mut(channels * height * width)
        .zip(from.elements().par_chunks_exact(from.sample()))
        .for_each(|(to, from)| Arch::new().dispatch(Mean { grid, from, to }));
    let y = tensor(means, [batch, channels, height, width], x);
    let none = || Tensor::<1>::zeros([1], &y.device());
    let inputs = (x.clone(), none(), none());
    let pullback = move |g: Tensor<4>, [wanted, ..]: [bool; 3]| {
        let gradient = Floats::new(&g).expect("the gradient is where the output is");
        let spread = || {
            let mut dx = vec![0.0; batch * channels * h * w];
            dx.par_chunks_exact_mut(channels * h * w)
                .zip(gradient.elements().par_chunks_exact(gradient.sample()))
                .for_each(|(to, from)| Arch::new().dispatch(Spread { grid, from, to }));
            tensor(dx, [batch, channels, h, w], &g)
        };
        (wanted.then(spread), None, None)
    };
    Some(custom_gradient(inputs, y, pullback))
}

/// Heights and widths of two nested grids.
#[derive(Clone, Copy)]
struct Grid {
    fine: [usize; 2],
    coarse: [usize; 2],
}

impl Grid {
    /// Height and width of a cell.
    fn cell(&self) -> [usize; 2] {
        [0, 1].map(|d| self.fine[d] / self.coarse[d])
    }
}

struct Mean<'a> {
    grid: Grid,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Mean<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { grid, from, to } = self;
        let ([_, w], [_, width]) = (grid.fine, grid.coarse);
        let [sy, sx] = grid.cell();
        let scale = 1.0 / (sy * sx) as f32;
        let mut line = vec![0.0; w];
        // Rows of the coarser grid, of all channels one after the other.
        for (band, to) in from.chunks_exact(sy * w).zip(to.chunks_exact_mut(width)) {
            line.fill(0.0);
            for row in band.chunks_exact(w) {
                for (sum, x) in line.iter_mut().zip(row) {
                    *sum += x;
                }
            }
            if sx == 2 {
                for (to, pair) in to.iter_mut().zip(line.as_chunks::<2>().0) {
                    *to = (pair[0] + pair[1]) * scale;
                }
            } else {
                for (to, cell) in to.iter_mut().zip(line.chunks_exact(sx)) {
                    *to = cell.iter().sum::<f32>() * scale;
                }
            }
        }
    }
}

/// The transpose of [`Mean`].
struct Spread<'a> {
    grid: Grid,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { grid, from, to } = self;
        let ([_, w], [_, width]) = (grid.fine, grid.coarse);
        let [sy, sx] = grid.cell();
        let scale = 1.0 / (sy * sx) as f32;
        let mut line = vec![0.0; w];
        for (band, from) in to.chunks_exact_mut(sy * w).zip(from.chunks_exact(width)) {
            for (cell, x) in line.chunks_exact_mut(sx).zip(from) {
                cell.fill(x * scale);
            }
            for row in band.chunks_exact_mut(w) {
                row.copy_from_slice(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::module::adaptive_avg_pool2d;
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn pools_are_those_of_burn() {
        let device = Device::flex();
        device.seed(1);
        let normal = Distribution::Normal(0.0, 1.0);
        let cases = [
            ([6, 8], [3, 4]),
            ([6, 9], [2, 3]),
            ([5, 7], [1, 7]),
            ([4, 4], [4, 4]),
        ];
        for (fine, coarse) in cases {
            let x = Tensor::<4>::random([2, 3, fine[0], fine[1]], normal, &device);
            let u = Tensor::<4>::random([2, 3, coarse[0], coarse[1]], normal, &device);
            let run = |of: &dyn Fn(Tensor<4>) -> Tensor<4>| {
                let leaf = x.clone().autodiff().require_grad();
                let y = of(leaf.clone());
                let gradients = (y.clone() * u.clone().autodiff()).sum().backward();
                let dx = leaf.grad(&gradients).expect("a gradient");
                let numbers = [y.without_autodiff(), dx].map(|t| t.into_data());
                numbers.map(|data| data.iter::<f64>().collect::<Vec<_>>())
            };
            let native = run(&|x| pool(&x, coarse).expect("the native path"));
            let portable = run(&|x| adaptive_avg_pool2d(x, coarse));
            for (native, portable) in native.iter().flatten().zip(portable.iter().flatten()) {
                assert!((native - portable).abs() < 1e-6, "{native} and {portable}");
            }
        }
        let x = Tensor::<4>::ones([1, 1, 5, 4], &device);
        assert!(pool(&x, [2, 2]).is_none(), "cells of unequal size");
    }
}
