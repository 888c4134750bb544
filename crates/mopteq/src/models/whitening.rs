//! Kernels whose outputs are uncorrelated: the principal axes of small patches of pictures.
//!
//! The pair of channels 2 i and 2 i + 1 of a whitening kernel is v_i and -v_i, where v_i is the
//! eigenvector of the i-th largest eigenvalue of the patches' second moments E[p p'], so ReLU loses
//! nothing. The batch norm after the kernel scales every output to variance 1. In a stack of
//! codings, this is the input that sparse coding requires (Olshausen and Field 1996). Page (2019)
//! and airbench (Jordan 2024, arXiv:2404.00498) begin their networks this way and need half the
//! epochs.

use burn::module::Param;
use burn::tensor::module::unfold4d;
use burn::tensor::ops::UnfoldOptions;
use burn::tensor::{Tensor, TensorData};

/// Puts the principal axes of the patches of plain pictures `[batch, in, height, width]` into a
/// kernel `[out, in, k, k]`. Channels beyond twice the number of axes stay as they are.
pub(super) fn whiten(kernel: Param<Tensor<4>>, images: &Tensor<4>) -> Param<Tensor<4>> {
    let [out, input, k, _] = kernel.val().dims();
    let size = input * k * k;
    let moments = second_moments(images, k);
    let axes = principal_axes(moments, size);
    kernel.map(|old| {
        let data = old.clone().without_autodiff().into_data();
        let mut values: Vec<f32> = data.convert::<f32>().try_to_vec().unwrap_or_default();
        for (channel, row) in values.chunks_exact_mut(size).enumerate().take(out) {
            let Some(axis) = axes.get(channel / 2) else {
                break;
            };
            let sign = if channel % 2 == 0 { 1.0 } else { -1.0 };
            for (value, v) in row.iter_mut().zip(axis) {
                *value = (sign * v) as f32;
            }
        }
        let data = TensorData::new(values, [out, input, k, k]);
        let new = Tensor::from_data(data, (&old.device(), old.dtype()));
        new.set_require_grad(old.is_require_grad())
    })
}

/// E[p p'] of all k x k patches, row by row.
fn second_moments(images: &Tensor<4>, k: usize) -> Vec<f64> {
    let device = images.device();
    let images = images.clone().to_device(&deq_kernels::host(&device));
    let options = UnfoldOptions::new([1, 1], [0, 0], [1, 1]);
    let patches = unfold4d(images, [k, k], options);
    let [batch, size, count] = patches.dims();
    let patches = patches.swap_dims(0, 1).reshape([size, batch * count]);
    let moments = patches.clone().matmul(patches.transpose()) / (batch * count).max(1) as f64;
    let moments = moments.into_data().convert::<f64>();
    moments.try_to_vec().unwrap_or_default()
}

/// The eigenvectors of a symmetric matrix, those of the largest eigenvalues first, by cyclic Jacobi
/// rotations (Golub and Van Loan, Matrix Computations, section 8.5).
fn principal_axes(mut a: Vec<f64>, n: usize) -> Vec<Vec<f64>> {
    // Row i of v becomes the i-th eigenvector.
    let mut v = vec![0.0; n * n];
    (0..n).for_each(|i| v[i * n + i] = 1.0);
    for _sweep in 0..50 {
        let off = |a: &[f64]| -> f64 {
            let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
            pairs.map(|(i, j)| a[i * n + j] * a[i * n + j]).sum()
        };
        let trace: f64 = (0..n).map(|i| a[i * n + i].abs()).sum();
        if off(&a).sqrt() <= 1e-14 * trace {
            break;
        }
        for q in 1..n {
            for p in 0..q {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                let turn = |m: &mut [f64], first: usize, second: usize| {
                    let (x, y) = (m[first], m[second]);
                    m[first] = c * x - s * y;
                    m[second] = s * x + c * y;
                };
                for i in 0..n {
                    turn(&mut a, i * n + p, i * n + q);
                }
                for i in 0..n {
                    turn(&mut a, p * n + i, q * n + i);
                    turn(&mut v, p * n + i, q * n + i);
                }
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|i, j| a[j * n + j].total_cmp(&a[i * n + i]));
    order
        .into_iter()
        .map(|i| v[i * n..(i + 1) * n].to_vec())
        .collect()
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn axes_diagonalise_a_symmetric_matrix() {
        let n = 12;
        let device = Device::flex();
        device.seed(3);
        let x = Tensor::<2>::random([n, 40], Distribution::Normal(0.0, 1.0), &device);
        let gram = x.clone().matmul(x.transpose());
        let a: Vec<f64> = gram.into_data().convert::<f64>().try_to_vec().unwrap();
        let axes = principal_axes(a.clone(), n);
        let product = |u: &[f64], w: &[f64]| -> f64 {
            (0..n)
                .flat_map(|i| (0..n).map(move |j| (i, j)))
                .map(|(i, j)| u[i] * a[i * n + j] * w[j])
                .sum()
        };
        let mut last = f64::INFINITY;
        for (i, u) in axes.iter().enumerate() {
            for (j, w) in axes.iter().enumerate() {
                let inner: f64 = u.iter().zip(w).map(|(u, w)| u * w).sum();
                assert!((inner - f64::from(u8::from(i == j))).abs() < 1e-12);
                assert!(i == j || product(u, w).abs() < 1e-10 * product(&axes[0], &axes[0]));
            }
            assert!(product(u, u) <= last * (1.0 + 1e-12));
            last = product(u, u);
        }
    }
}
