//! Upper bounds on norms of kernels and matrices, for certificates.
//!
//! Power iteration ([`convolution_norm`](crate::norm::convolution_norm)) approaches a norm from below. A
//! certificate needs a bound from above.
//!
//! **Convolution.** A convolution with zero padding takes a picture of h x w pixels, surrounds it
//! with zeros, and keeps some pixels of the result. Padding and stride only determine which. On a
//! torus of (h + k - 1) x (w + k - 1) pixels, the padded picture does not wrap around onto itself,
//! so the circular convolution there gives all pixels of the result. Selecting some of them does
//! not increase the norm. The Fourier transform turns the circular convolution into one matrix per
//! frequency, the symbol K^(t) = sum over (a, b) of K_ab exp(-i (a t_1 + b t_2)). Hence
//!
//! ```text
//! |conv| <= max over the frequencies t of the torus of |K^(t)|_2
//! ```
//!
//! With a stride, each pixel is in at most n = ceil(k / stride)^2 patches, and every patch is
//! multiplied by the same matrix M `[out, in k k]`, so |conv| <= sqrt(n) |M|_2 as well. The smaller
//! bound applies.
//!
//! **Matrix.** With A'A = G_0, c_i = |G_i|_F and G_(i+1) = (G_i / c_i)^2, the largest eigenvalue
//! of G_i is at most c_i. So log |A|_2 <= (log c_0)/2 + (log c_1)/4 + ... + (log c_n)/2^(n+1)
//! (Gram iteration: Delattre et al. 2023, arXiv:2305.16173). It exceeds |A|_2 by a factor of at
//! most rank^(1/2^(n+2)): less than 0.2 % for n = 10 and rank 1,000.
//!
//! **Rounding.** Everything is computed in f64. A product of matrices with m columns has a relative
//! error of m 1.1e-16 in the Frobenius norm, and the largest eigenvalue of G_i / c_i is at least
//! 1/m, so a squaring changes a logarithm by less than 1.1e-16 m^2: 1e-10 for m = 1,000. Every
//! bound is multiplied by 1 + 1e-6, which covers this a thousand times over.

use burn::tensor::{DType, Tensor, TensorData};

/// Number of squarings of a Gram matrix.
const SQUARINGS: usize = 10;
/// Covers the rounding errors of a bound.
const ROUNDING: f64 = 1.0 + 1e-6;
/// Entries of symbols that are in memory at a time: 32 MiB.
const TOGETHER: usize = 1 << 22;

/// Upper bound on the operator norm of the convolution with `kernel`, `[out, in, k, l]`, on inputs
/// of `[in, height, width]`, for any zero padding. Unlike
/// [`convolution_norm`](crate::norm::convolution_norm), it is never below the norm. Infinite if an
/// entry of the kernel is not finite.
pub fn convolution_norm_bound(
    kernel: Tensor<4>,
    [height, width]: [usize; 2],
    stride: [usize; 2],
) -> f64 {
    let kernel = exact(kernel);
    if !is_finite(kernel.clone()) {
        return f64::INFINITY;
    }
    let [_, _, k, l] = kernel.dims();
    let torus = [height + k - 1, width + l - 1];
    let bound = symbols(&kernel, torus).fold(0.0, largest) * ROUNDING;
    if stride == [1, 1] {
        return bound;
    }
    let patches = k.div_ceil(stride[0].max(1)) * l.div_ceil(stride[1].max(1));
    let unfolded = matrix_norm_bound(kernel.flatten::<2>(1, 3));
    bound.min((patches as f64).sqrt() * unfolded)
}

/// Upper bound on the spectral norm of a matrix. Infinite if one of its entries is not finite.
pub fn matrix_norm_bound(matrix: Tensor<2>) -> f64 {
    let matrix = exact(matrix);
    if !is_finite(matrix.clone()) {
        return f64::INFINITY;
    }
    let bounds = singular_bounds(matrix.unsqueeze_dim::<3>(0));
    bounds.into_iter().fold(0.0, largest) * ROUNDING
}

/// A copy in f64 on the host.
fn exact<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let tensor = tensor.without_autodiff();
    let host = deq_kernels::host(&tensor.device());
    tensor.to_device(&host).cast(DType::F64)
}

fn is_finite<const D: usize>(tensor: Tensor<D>) -> bool {
    tensor.into_data().iter::<f64>().all(f64::is_finite)
}

/// The larger of two bounds, or NaN if one of them is NaN.
pub(crate) fn largest(a: f64, b: f64) -> f64 {
    match a.is_nan() || b <= a {
        true => a,
        false => b,
    }
}

/// Bounds on the spectral norms of the symbols on a torus. The symbols at t and -t are conjugates
/// of each other, so half of the frequencies are enough.
fn symbols(kernel: &Tensor<4>, [height, width]: [usize; 2]) -> impl Iterator<Item = f64> {
    let [out, input, k, l] = kernel.dims();
    let options = (kernel.device(), DType::F64);
    let taps = kernel.clone().permute([2, 3, 0, 1]);
    let taps = taps.reshape([k * l, out * input]);
    let count = (height / 2 + 1) * width;
    let together = (TOGETHER / (4 * out * input).max(1)).max(1);
    (0..count).step_by(together).flat_map(move |first| {
        let frequencies = first..(first + together).min(count);
        let part = |function: fn(f64) -> f64| {
            let angles = frequencies.clone().flat_map(|f| {
                let (u, v) = (f / width, f % width);
                (0..k * l).map(move |tap| {
                    let turns = |t: usize, a: usize, n: usize| (t * a % n) as f64 / n as f64;
                    let turn = turns(u, tap / l, height) + turns(v, tap % l, width);
                    function(std::f64::consts::TAU * turn)
                })
            });
            let shape = [frequencies.len(), k * l];
            let data = TensorData::new(angles.collect::<Vec<f64>>(), shape);
            let waves = Tensor::<2>::from_data(data, (&options.0, options.1));
            let part = waves.matmul(taps.clone());
            part.reshape([frequencies.len(), out, input])
        };
        let (real, imaginary) = (part(f64::cos), part(f64::sin).neg());
        // A complex matrix as a real one with the same norm.
        let above = Tensor::cat(vec![real.clone(), imaginary.clone().neg()], 2);
        let below = Tensor::cat(vec![imaginary, real], 2);
        singular_bounds(Tensor::cat(vec![above, below], 1))
    })
}

/// Bounds on the spectral norms of matrices `[count, rows, columns]`, by Gram iteration.
fn singular_bounds(matrices: Tensor<3>) -> Vec<f64> {
    let [_, rows, columns] = matrices.dims();
    let transposed = matrices.clone().swap_dims(1, 2);
    let mut gram = match rows < columns {
        true => matrices.matmul(transposed),
        false => transposed.matmul(matrices),
    };
    let (mut weight, mut logarithm) = (0.5, None);
    for squaring in 0..=SQUARINGS {
        let square = gram.clone() * gram.clone();
        // Keeps a zero matrix zero. A bound that is too large is still a bound.
        let size = square.sum_dim(2).sum_dim(1).sqrt().clamp_min(1e-30);
        let part = size.clone().log() * weight;
        logarithm = Some(match logarithm {
            Some(sum) => sum + part,
            None => part,
        });
        if squaring < SQUARINGS {
            gram = gram / size;
            gram = gram.clone().matmul(gram);
            weight /= 2.0;
        }
    }
    let logarithm = logarithm.map(|sum: Tensor<3>| sum.exp().into_data());
    let bounds = logarithm.iter().flat_map(|data| data.iter::<f64>());
    bounds.collect()
}
