//! Stride-1 convolutions with zero padding that keep the resolution.
//!
//! The fast form is Winograd's minimal filtering F(4, 3) along columns for 3 x 3 kernels (half of
//! the multiplications), and a direct convolution in registers for other odd sizes.

use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;

use crate::{cpu, cube};

fn fast(x: &Tensor<4>, kernel: &Tensor<4>, bias: Option<&Tensor<1>>) -> Option<Tensor<4>> {
    cpu::convolve(x, kernel, bias).or_else(|| cube::convolve(x, kernel, bias))
}

/// The convolution, computed in the type of the kernel. The result has the type of x.
///
/// # Shapes
///
/// x `[batch, in, height, width]`, kernel `[out, in, k, k]` with odd k; the result is
/// `[batch, out, height, width]`.
///
/// # Panics
///
/// Panics if the channels do not match.
pub fn convolve(x: Tensor<4>, kernel: Tensor<4>) -> Tensor<4> {
    convolve_with(x, kernel, None)
}

/// As [`convolve`], plus a bias `[out]` of the type of the kernel.
///
/// # Panics
///
/// As [`convolve`].
pub fn convolve_with(x: Tensor<4>, kernel: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [outer, inner] = [x.dtype(), kernel.dtype()];
    if outer != inner {
        return convolve_with(x.cast(inner), kernel, bias).cast(outer);
    }
    if let Some(y) = fast(&x, &kernel, bias.as_ref()) {
        return y;
    }
    let [_, _, k, _] = kernel.dims();
    let half = k / 2;
    let options = ConvOptions::new([1, 1], [half, half], [1, 1], 1);
    conv2d(x, kernel, bias, options)
}

/// The kernel of the transposed convolution: flipped, with in and out exchanged. At stride 1, the
/// transpose of a convolution is a convolution.
///
/// # Shapes
///
/// `[out, in, k, k] -> [in, out, k, k]`.
pub fn transposed(kernel: Tensor<4>) -> Tensor<4> {
    kernel.flip([2, 3]).swap_dims(0, 1)
}

/// The convolution of a module, by [`convolve`] if it keeps the resolution.
///
/// # Shapes
///
/// Those of [`Conv2d::forward`].
pub fn forward(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let [_, _, k, _] = conv.weight.dims();
    let half = k / 2;
    let keeps_resolution = conv.stride == [1, 1]
        && conv.dilation == [1, 1]
        && conv.groups == 1
        && conv.padding == PaddingConfig2d::Explicit(half, half, half, half);
    if keeps_resolution {
        let bias = conv.bias.as_ref().map(|bias| bias.val());
        if let Some(y) = fast(&x, &conv.weight.val(), bias.as_ref()) {
            return y;
        }
    }
    conv.forward(x)
}
