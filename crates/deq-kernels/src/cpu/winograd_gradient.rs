//! Kernel gradients of 3 x 3 convolutions with half of the multiplications.
//!
//! This is the transpose of [`winograd`](super::winograd) with respect to its weights: for each
//! product, the correlation of the transformed input with the transformed gradient.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::memory::{WIDE, lend, room};
use super::winograd::{INPUT, PRODUCTS, ROWS, SUMS, WEIGHTS, count, enter, load, pixels};

/// Transformed elements per block of a kernel gradient: the second-level cache holds them.
const GRADIENT_AT_ONCE: usize = 1 << 18;

thread_local! {
    static GRADIENT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Like `kernel::add_kernel_gradient`, for 3 x 3 kernels,
/// with half of the multiplications.
pub(super) fn add_kernel_gradient(
    size: [usize; 2],
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    let [from, to] = [x, g].map(|planes| planes.len() / samples.max(1));
    let all = PRODUCTS * pixels(size) * (from + to) / (size[0] * size[1]);
    let group = (GRADIENT_AT_ONCE / all).clamp(1, samples.max(1));
    lend(&SUMS, |products| {
        let products = room(products, sum.len() / 3 * PRODUCTS);
        products.fill(0.0);
        for (x, g) in x.chunks(group * from).zip(g.chunks(group * to)) {
            lend(&INPUT, |inputs| {
                lend(&GRADIENT, |gradients| {
                    Arch::new().dispatch(Correlate {
                        size,
                        samples: x.len() / from,
                        inputs,
                        gradients,
                        x,
                        g,
                        products: &mut *products,
                    });
                });
            });
        }
        let kernels = products.as_chunks::<{ 3 * PRODUCTS }>().0;
        for (products, sum) in kernels.iter().zip(sum.as_chunks_mut::<9>().0) {
            for (k, weights) in WEIGHTS.iter().enumerate() {
                for (row, weight) in weights.iter().enumerate() {
                    for column in 0..3 {
                        sum[3 * row + column] += weight * products[3 * k + column];
                    }
                }
            }
        }
    });
}

/// Adds the products of the transformed planes to `products`, `[out][in][product][column]`, over
/// all samples.
struct Correlate<'a> {
    size: [usize; 2],
    samples: usize,
    inputs: &'a mut Vec<f32>,
    gradients: &'a mut Vec<f32>,
    x: &'a [f32],
    g: &'a [f32],
    products: &'a mut [f32],
}

impl WithSimd for Correlate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if S::REGISTER_COUNT >= WIDE {
            self.blocks::<S, 8>(simd);
        } else {
            self.blocks::<S, 4>(simd);
        }
    }
}

impl Correlate<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const OUT: usize>(self, simd: S) {
        let [height, width] = self.size;
        let (size, stride, lanes) = (height * width, width + 1, S::F32_LANES);
        let samples = self.samples;
        let [channels_in, channels_out] = [self.x.len(), self.g.len()].map(|n| n / samples / size);
        // The bands of all samples, concatenated and padded with zeros to the length of a vector.
        let used = samples * pixels(self.size);
        let length = used.next_multiple_of(lanes);
        let line = (length + lanes + 2).next_multiple_of(lanes);
        let inputs = room(self.inputs, PRODUCTS * channels_in * line);
        let gradients = room(self.gradients, PRODUCTS * channels_out * line);
        let bands = count(self.size);
        for sample in 0..samples {
            let first = sample * pixels(self.size);
            for channel in 0..channels_in {
                let x = &self.x[(sample * channels_in + channel) * size..][..size];
                for band in 0..bands {
                    let place = channel * line + first + band * stride;
                    enter(
                        simd,
                        x,
                        self.size,
                        band,
                        inputs,
                        [place, channels_in * line],
                    );
                }
            }
            for channel in 0..channels_out {
                let g = &self.g[(sample * channels_out + channel) * size..][..size];
                for band in 0..bands {
                    let place = channel * line + first + band * stride;
                    let places = [place, channels_out * line];
                    enter_gradient(simd, g, self.size, band, gradients, places);
                }
            }
        }
        for line in inputs.chunks_exact_mut(line) {
            line[used..].fill(0.0);
        }
        for line in gradients.chunks_exact_mut(line) {
            line[used..].fill(0.0);
        }
        let of_product = inputs.chunks_exact(channels_in * line);
        let of_product = of_product.zip(gradients.chunks_exact(channels_out * line));
        for (k, (inputs, gradients)) in of_product.enumerate() {
            let mut o = 0;
            while o < channels_out {
                let g = &gradients[o * line..];
                let place =
                    |n: usize, i: usize| ((o + n) * channels_in + i) * (3 * PRODUCTS) + 3 * k;
                let wide = o + OUT <= channels_out;
                for (i, x) in inputs.chunks_exact(line).enumerate() {
                    if wide {
                        let sums = dots::<S, OUT>(simd, x, g, [line, length]);
                        for (n, sums) in sums.into_iter().enumerate() {
                            add(&mut self.products[place(n, i)..], sums);
                        }
                    } else {
                        let [sums] = dots::<S, 1>(simd, x, g, [line, length]);
                        add(&mut self.products[place(0, i)..], sums);
                    }
                }
                o += if wide { OUT } else { 1 };
            }
        }
    }
}

#[inline(always)]
fn add(to: &mut [f32], sums: [f32; 3]) {
    for (to, sum) in to.iter_mut().zip(sums) {
        *to += sum;
    }
}

/// Inner products of OUT lines of g with a line of x, shifted by each column.
#[inline(always)]
fn dots<S: Simd, const OUT: usize>(
    simd: S,
    x: &[f32],
    g: &[f32],
    [line, length]: [usize; 2],
) -> [[f32; 3]; OUT] {
    let vectors = length / S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); 3]; OUT];
    let mut xs: [&[S::f32s]; 3] = [&[]; 3];
    for (column, shifted) in xs.iter_mut().enumerate() {
        *shifted = &S::as_simd_f32s(&x[column..][..length]).0[..vectors];
    }
    let mut gs: [&[S::f32s]; OUT] = [&[]; OUT];
    for (o, row) in gs.iter_mut().enumerate() {
        *row = &S::as_simd_f32s(&g[o * line..][..length]).0[..vectors];
    }
    for p in 0..vectors {
        let x = [xs[0][p], xs[1][p], xs[2][p]];
        for (sums, g) in sums.iter_mut().zip(&gs) {
            let g = g[p];
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = simd.mul_add_e_f32s(g, x, *sum);
            }
        }
    }
    let mut dots = [[0.0; 3]; OUT];
    for (dots, sums) in dots.iter_mut().zip(sums) {
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = simd.reduce_sum_f32s(sum);
        }
    }
    dots
}

/// The transform A g of a band of the gradient, where A' computes four rows from six products. Line
/// k, with its border on the right, is at `start` + k `step`.
#[inline(always)]
fn enter_gradient<S: Simd>(
    simd: S,
    plane: &[f32],
    [height, width]: [usize; 2],
    band: usize,
    lines: &mut [f32],
    [start, step]: [usize; 2],
) {
    let lanes = S::F32_LANES;
    let lines = &mut lines[start..];
    let scaled = |c: f32, x: S::f32s, y: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(c), x, y);
    for x in (0..width).step_by(lanes) {
        let mut g = [simd.splat_f32s(0.0); ROWS];
        for (j, g) in g.iter_mut().enumerate() {
            let y = ROWS * band + j;
            if y < height {
                *g = load(simd, &plane[y * width + x..(y + 1) * width]);
            }
        }
        let [even, odd] = [simd.add_f32s(g[0], g[2]), simd.add_f32s(g[1], g[3])];
        let [fine, coarse] = [scaled(4.0, g[2], g[0]), simd.add_f32s(g[1], g[1])];
        let coarse = scaled(8.0, g[3], coarse);
        let made = [
            g[0],
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            simd.add_f32s(fine, coarse),
            simd.sub_f32s(fine, coarse),
            g[3],
        ];
        for k in 0..PRODUCTS {
            S::as_mut_simd_f32s(&mut lines[k * step + x..][..lanes]).0[0] = made[k];
        }
    }
    for k in 0..PRODUCTS {
        lines[k * step + width] = 0.0;
    }
}
