//! Factors of stems, injections and heads in a Lipschitz constant.

use burn::nn::BatchNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Tensor, TensorData};

use super::{Fusion, Head, Stem};
use crate::lipschitz::{Chain, Change, Read, Summand, widest};
use crate::norm_bound::{convolution_norm_bound, largest};

/// gamma / sqrt(variance + epsilon) of every channel, from the running statistics.
pub(crate) fn norm_scale(norm: &BatchNorm) -> Vec<f64> {
    let gamma = numbers(norm.gamma.val());
    let variance = numbers(norm.running_var.value_sync());
    let pairs = gamma.into_iter().zip(variance);
    pairs
        .map(|(gamma, variance)| gamma / (variance + norm.epsilon).sqrt())
        .collect()
}

/// Bound on the norm of a convolution without its bias on pictures of this size, with its input
/// channels scaled by `before` and its output channels scaled by `behind`.
pub(crate) fn convolution_bound(
    kernel: Tensor<4>,
    [before, behind]: [&[f64]; 2],
    size: [usize; 2],
    stride: [usize; 2],
) -> f64 {
    let kernel = kernel.without_autodiff().cast(DType::F64);
    let device = kernel.device();
    let factors = |scale: &[f64], shape: [usize; 4]| {
        let data = TensorData::new(scale.to_vec(), shape);
        Tensor::<4>::from_data(data, (&device, DType::F64))
    };
    let kernel = kernel * factors(before, [1, before.len(), 1, 1]);
    let kernel = kernel * factors(behind, [behind.len(), 1, 1, 1]);
    convolution_norm_bound(kernel, size, stride)
}

/// The same for a module.
pub(crate) fn module_bound(conv: &Conv2d, before: &[f64], behind: &[f64], size: [usize; 2]) -> f64 {
    convolution_bound(conv.weight.val(), [before, behind], size, conv.stride)
}

/// Bound on the factor of the injections c_i = U_i (g pooled to these sizes) + b_i, all together,
/// for a picture g of this size whose channels are scaled.
pub(crate) fn injections_bound(
    injections: &[Conv2d],
    sizes: &[[usize; 2]],
    scale: &[f64],
    size: [usize; 2],
) -> f64 {
    let squares = injections.iter().zip(sizes).map(|(u, pooled)| {
        let ones = vec![1.0; u.weight.val().dims()[0]];
        let factor = module_bound(u, scale, &ones, *pooled) * pool_norm(size, *pooled);
        factor * factor
    });
    squares.sum::<f64>().sqrt()
}

/// Bound on the norm of the means over the cells of a grid: cell i of n covers the pixels from
/// floor(i * size / n) to ceil((i + 1) * size / n). Exact where all cells are equal.
pub(crate) fn pool_norm(size: [usize; 2], grid: [usize; 2]) -> f64 {
    // The norm of a matrix is at most the root of its largest row sum times its largest column sum.
    // The weights of a mean add up to 1.
    let axis = |n: usize, cells: usize| {
        let cells = cells.clamp(1, n.max(1));
        let mut columns = vec![0.0; n];
        for i in 0..cells {
            let (first, end) = (i * n / cells, ((i + 1) * n).div_ceil(cells));
            let share = 1.0 / (end - first).max(1) as f64;
            let cell = columns.iter_mut().take(end).skip(first);
            cell.for_each(|column| *column += share);
        }
        columns.into_iter().fold(0.0, largest).sqrt()
    };
    axis(size[0], grid[0]) * axis(size[1], grid[1])
}

impl Stem {
    /// The change of the stem's output, which has this size, from the change x of the pictures.
    pub(crate) fn lipschitz(&self, chain: &mut Chain, x: &Change, size: [usize; 2]) -> Change {
        let [_, height, width] = x.shape;
        let behind = norm_scale(&self.norm);
        let shape = [behind.len(), size[0], size[1]];
        let bound = |scale: &[f64]| module_bound(&self.conv, scale, &behind, [height, width]);
        let x = x.through(shape, bound).relu();
        chain.note("stem", &x);
        x
    }
}

impl Head {
    /// How the class scores depend on states of these sizes, one per branch. The states move
    /// together, by one vector whose channels are scaled by `scales`. A branch that does not move
    /// has none.
    pub(crate) fn read(
        &self,
        sizes: &[[usize; 2]],
        scales: &[Vec<f64>],
        amounts: Vec<f64>,
    ) -> Read {
        let [features, classes] = self.linear.weight.val().dims();
        let weight = numbers(self.linear.weight.val());
        let mut squares = vec![0.0; classes * classes];
        let mut first = 0;
        for (branch, size) in sizes.iter().enumerate() {
            // An average has one norm and one set of features for all branches.
            let (norm, fine, share) = match self.fusion {
                Fusion::Pools => (self.norms.get(branch), *size, 1.0),
                Fusion::Average => {
                    let fine = sizes[0];
                    let up = (fine[0] * fine[1]) as f64 / (size[0] * size[1]).max(1) as f64;
                    (self.norms.first(), fine, up.sqrt() / sizes.len() as f64)
                }
            };
            let Some(norm) = norm else { continue };
            let grid = [self.grid.min(fine[0]), self.grid.min(fine[1])];
            let cells = grid[0] * grid[1];
            let factors = norm_scale(norm);
            let start = match self.fusion {
                Fusion::Pools => first,
                Fusion::Average => 0,
            };
            first += factors.len() * cells;
            let Some(scale) = scales.get(branch).filter(|scale| !scale.is_empty()) else {
                continue;
            };
            let pool = share * pool_norm(fine, grid);
            let factors = factors.iter().zip(scale).map(|(norm, s)| norm * s * pool);
            let factors: Vec<f64> = factors.collect();
            let rows = weight.chunks_exact(classes.max(1)).take(features);
            for (feature, row) in rows.skip(start).take(factors.len() * cells).enumerate() {
                let factor = factors[feature / cells];
                add_squares(&mut squares, row, factor * factor);
            }
        }
        Read {
            distances: squares.into_iter().map(f64::sqrt).collect(),
            amounts,
        }
    }

    /// How the class scores depend on a value of one branch.
    pub(crate) fn reads(&self, x: &Change) -> Vec<Read> {
        let [_, height, width] = x.shape;
        let of = |s: &Summand| {
            let scales = std::slice::from_ref(&s.scale);
            self.read(&[[height, width]], scales, s.amounts.clone())
        };
        x.summands.iter().map(of).collect()
    }
}

/// Adds factor (w_j - w_k)^2 for all pairs.
fn add_squares(squares: &mut [f64], row: &[f64], factor: f64) {
    for (line, w_j) in squares.chunks_exact_mut(row.len().max(1)).zip(row) {
        for (square, w_k) in line.iter_mut().zip(row) {
            *square += factor * (w_j - w_k) * (w_j - w_k);
        }
    }
}

/// relu(x + second(relu(first(x)))), with a batch norm after each convolution.
pub(crate) fn block(x: &Change, [first, second]: [(&Conv2d, &BatchNorm); 2]) -> Change {
    let [_, height, width] = x.shape;
    let size = [height, width];
    let scales = [norm_scale(first.1), norm_scale(second.1)];
    let ones = vec![1.0; scales[0].len()];
    let behind = module_bound(second.0, &ones, &scales[1], size);
    x.through(x.shape, |scale| {
        widest(scale) + module_bound(first.0, scale, &scales[0], size) * behind
    })
}

pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor
        .without_autodiff()
        .into_data()
        .iter::<f64>()
        .collect()
}
