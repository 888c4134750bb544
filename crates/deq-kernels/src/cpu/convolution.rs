//! Convolutions of a batch, with their gradients.

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::kernel::{Exactness, Packed, add_kernel_gradient};
use super::memory::{Floats, SAMPLES_A_TASK, produce, tensor};
use crate::gradient::custom_gradient;

/// Larger kernels would run past the slack at the end of a plane.
const LARGEST_KERNEL: usize = 15;

/// Whether a convolution of this kind has a fast form.
pub(super) fn convolves(x: [usize; 4], kernel: [usize; 4]) -> bool {
    let ([_, channels, height, width], [out, channels_in, k, l]) = (x, kernel);
    k == l
        && k % 2 == 1
        && k <= LARGEST_KERNEL
        && channels == channels_in
        && [out, channels, height, width].iter().all(|n| *n > 0)
}

/// Stride-1 convolution with zero padding that keeps the resolution, and a bias `[out]`, with their
/// gradients. `None` if there is no fast form.
pub(crate) fn convolve(
    x: &Tensor<4>,
    kernel: &Tensor<4>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<4>> {
    if !convolves(x.dims(), kernel.dims()) {
        return None;
    }
    let plain = |t: &Tensor<4>| Floats::new(&t.clone().without_autodiff());
    let (from, weights) = (plain(x)?, plain(kernel)?);
    let [out, channels, k, _] = weights.dims;
    let shift = match bias {
        Some(bias) => Some(plain(&bias.clone().reshape([1, -1, 1, 1]))?),
        None => None,
    };
    let shape = [out, channels, k];
    let packed = Packed::new(weights.elements(), shape, Exactness::Halves);
    let y = convolve_batch(&packed, &from, shift.as_ref(), x);
    let none = || Tensor::zeros([1], &y.device());
    let inputs = (
        x.clone(),
        kernel.clone(),
        bias.cloned().unwrap_or_else(none),
    );
    let pullback = move |g: Tensor<4>, [x, kernel, bias]: [bool; 3]| {
        // A gradient may be a view, for example that of a mean.
        let gradient = Floats::new(&g).expect("the gradient is on the output's backend");
        let x = x.then(|| {
            let transposed = Packed::transposed(weights.elements(), shape, Exactness::Halves);
            convolve_batch(&transposed, &gradient, None, &g)
        });
        let kernel = kernel.then(|| {
            let sum = kernel_gradient(&from, &gradient, k);
            tensor(sum, weights.dims, &g)
        });
        let bias = bias.then(|| {
            let sum = tensor(gradient.sum_of_channels(), [1, out, 1, 1], &g);
            sum.reshape([out])
        });
        (x, kernel, bias)
    };
    Some(custom_gradient(inputs, y, pullback))
}

fn convolve_batch(
    kernel: &Packed,
    x: &Floats,
    shift: Option<&Floats>,
    like: &Tensor<4>,
) -> Tensor<4> {
    let [batch, _, height, width] = x.dims;
    let dims = [batch, kernel.channels_out(), height, width];
    let sample = dims[1..].iter().product();
    let ([out], _) = produce(batch, sample, |i, [out]| {
        let out = out.zeros(sample);
        kernel.convolve([height, width], x.of_sample(i), out);
        let planes = out.chunks_exact_mut(height * width);
        for (plane, shift) in planes.zip(shift.map_or(&[][..], Floats::elements)) {
            plane.iter_mut().for_each(|y| *y += shift);
        }
    });
    tensor(out, dims, like)
}

fn kernel_gradient(x: &Floats, g: &Floats, k: usize) -> Vec<f32> {
    let [_, channels, height, width] = x.dims;
    let size = g.dims[1] * channels * k * k;
    let sums: Vec<Vec<f32>> = x
        .elements()
        .par_chunks(SAMPLES_A_TASK * x.sample())
        .zip(g.elements().par_chunks(SAMPLES_A_TASK * g.sample()))
        .map(|(xs, gs)| {
            let mut sum = vec![0.0; size];
            let samples = xs.len() / x.sample();
            add_kernel_gradient(
                Exactness::Halves,
                [height, width],
                k,
                samples,
                xs,
                gs,
                &mut sum,
            );
            sum
        })
        .collect();
    let mut total = vec![0.0; size];
    for sum in sums {
        total.iter_mut().zip(sum).for_each(|(t, s)| *t += s);
    }
    total
}
