//! Batch norm, optionally followed by ReLU.
//!
//! Sums over a batch are kept in f64, plane by plane. In f32 they would be off by about 1e-6, which
//! moves whole regions of equal pixels across the kinks of the following network.

use burn::nn::BatchNorm;
use burn::tensor::{Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::memory::{Floats, produce, tensor};
use crate::gradient::custom_gradient;

/// Numbers that are summed in f32 before the sum is added to an f64.
const LINE: usize = 1024;

/// max(batch norm of x, floor) with its gradients: ReLU for a floor of 0, batch norm alone for
/// minus infinity. In training, it updates the running statistics as Burn does. `None` if there is
/// no fast form.
pub(crate) fn norm_above(norm: &BatchNorm, x: &Tensor<4>, floor: f32) -> Option<Tensor<4>> {
    let training = x.device().is_autodiff();
    if training && !norm.training.is_enabled() {
        return None;
    }
    let from = Floats::new(&x.clone().without_autodiff())?;
    let [_, channels, ..] = from.dims;
    let parameter = |t: &Tensor<1>| -> Option<Vec<f32>> {
        let t = t.clone().without_autodiff().reshape([1, -1, 1, 1]);
        let t = Floats::new(&t)?;
        (t.elements().len() == channels).then(|| t.elements().to_vec())
    };
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    let (scale, shift) = (parameter(&gamma)?, parameter(&beta)?);
    if from.elements().is_empty() {
        return None;
    }
    let device = x.device();
    let running = [&norm.running_mean, &norm.running_var].map(|r| {
        let value = if training { r.value_sync() } else { r.value() };
        value
            .without_autodiff()
            .to_device(&device.clone().without_autodiff())
    });
    if !training {
        let [mean, variance] = [parameter(&running[0])?, parameter(&running[1])?];
        let statistics = Statistics::new([&mean, &variance], norm.epsilon, floor);
        return Some(statistics.apply(&from, &scale, &shift, x));
    }
    let (mean, variance) = moments(&from);
    let statistics = Statistics::new([&mean, &variance], norm.epsilon, floor);
    for ((state, old), new) in [&norm.running_mean, &norm.running_var]
        .into_iter()
        .zip(running)
        .zip([mean, variance])
    {
        let new = Tensor::<1>::from_data(TensorData::new(new, [channels]), &old.device());
        let moved = old * (1.0 - norm.momentum) + new * norm.momentum;
        state.update(moved.autodiff());
    }
    let y = statistics.apply(&from, &scale, &shift, x);
    let made = Floats::new(&y)?;
    let pullback = move |g: Tensor<4>, [wants_x, ..]: [bool; 3]| {
        let gradient = Floats::new(&g).expect("the gradient is on the output's backend");
        let (sums, products) = statistics.sums(&from, &made, &gradient);
        let vector = |values: &[f64]| {
            let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            Tensor::<1>::from_data(TensorData::new(values, [channels]), &g.device())
        };
        let x = wants_x.then(|| {
            let means = [&sums[..], &products[..]];
            statistics.pull_back(&from, &made, &gradient, &scale, means, &g)
        });
        (x, Some(vector(&products)), Some(vector(&sums)))
    };
    Some(custom_gradient((x.clone(), gamma, beta), y, pullback))
}

/// Mean and variance of every channel.
fn moments(x: &Floats) -> (Vec<f32>, Vec<f32>) {
    let [batch, channels, height, width] = x.dims;
    let count = (batch * height * width) as f64;
    let of_channel = |channel: usize| {
        let sum: f64 = x.planes(channel).map(|x| total(x, 0.0).0).sum();
        let mean = (sum / count) as f32;
        // The sum of x - mean corrects the rounding error of the mean.
        let (mut off, mut square) = (0.0, 0.0);
        for plane in x.planes(channel) {
            let (a, b) = total(plane, mean);
            off += a;
            square += b;
        }
        let off = off / count;
        (mean, (square / count - off * off) as f32)
    };
    (0..channels).into_par_iter().map(of_channel).unzip()
}

/// The sums of x - mean and of its square.
fn total(x: &[f32], mean: f32) -> (f64, f64) {
    struct Total<'a>(&'a [f32], f32);
    impl WithSimd for Total<'_> {
        type Output = [f64; 2];

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
            let Self(x, mean) = self;
            let mean_vector = simd.splat_f32s(mean);
            let vectors = |[x, ..]: [S::f32s; 3]| {
                let x = simd.sub_f32s(x, mean_vector);
                [x, simd.mul_f32s(x, x)]
            };
            let scalars = |[x, ..]: [f32; 3]| [x - mean, (x - mean) * (x - mean)];
            sums(simd, [x; 3], vectors, scalars)
        }
    }
    let [sum, square] = Arch::new().dispatch(Total(x, mean));
    (sum, square)
}

/// The sums of two functions of three lines.
#[inline(always)]
fn sums<S: Simd>(
    simd: S,
    lines: [&[f32]; 3],
    vectors: impl Fn([S::f32s; 3]) -> [S::f32s; 2],
    scalars: impl Fn([f32; 3]) -> [f32; 2],
) -> [f64; 2] {
    let mut totals = [0.0; 2];
    let [a, b, c] = lines;
    for ((a, b), c) in a.chunks(LINE).zip(b.chunks(LINE)).zip(c.chunks(LINE)) {
        let (a, a_rest) = S::as_simd_f32s(a);
        let (b, b_rest) = S::as_simd_f32s(b);
        let (c, c_rest) = S::as_simd_f32s(c);
        let mut sums = [simd.splat_f32s(0.0); 2];
        for ((a, b), c) in a.iter().zip(b).zip(c) {
            let [first, second] = vectors([*a, *b, *c]);
            sums[0] = simd.add_f32s(sums[0], first);
            sums[1] = simd.add_f32s(sums[1], second);
        }
        for ((a, b), c) in a_rest.iter().zip(b_rest).zip(c_rest) {
            let [first, second] = scalars([*a, *b, *c]);
            totals[0] += f64::from(first);
            totals[1] += f64::from(second);
        }
        totals[0] += f64::from(simd.reduce_sum_f32s(sums[0]));
        totals[1] += f64::from(simd.reduce_sum_f32s(sums[1]));
    }
    totals
}

/// The statistics that normalise every channel.
struct Statistics {
    mean: Vec<f32>,
    /// 1 / standard deviation.
    inverse: Vec<f32>,
    /// The value that replaces all smaller ones.
    floor: f32,
}

impl Statistics {
    fn new([mean, variance]: [&[f32]; 2], epsilon: f64, floor: f32) -> Self {
        let inverse = |v: &f32| (1.0 / (f64::from(*v) + epsilon).sqrt()) as f32;
        Self {
            mean: mean.to_vec(),
            inverse: variance.iter().map(inverse).collect(),
            floor,
        }
    }

    fn apply(&self, x: &Floats, scale: &[f32], shift: &[f32], like: &Tensor<4>) -> Tensor<4> {
        let area = x.dims[2] * x.dims[3];
        let ([y], _) = produce(x.dims[0], x.sample(), |i, [y]| {
            for (c, x) in x.of_sample(i).chunks_exact(area).enumerate() {
                Arch::new().dispatch(Apply {
                    x,
                    y: y.zeros(area),
                    mean: self.mean[c],
                    scale: scale[c] * self.inverse[c],
                    shift: shift[c],
                    floor: self.floor,
                });
            }
        });
        tensor(y, x.dims, like)
    }

    /// For every channel, the sum of the gradient over the pixels above the floor, and the sum
    /// of its product with the normalised x.
    fn sums(&self, x: &Floats, y: &Floats, g: &Floats) -> (Vec<f64>, Vec<f64>) {
        let of_channel = |channel: usize| {
            let mut totals = [0.0; 2];
            let planes = x
                .planes(channel)
                .zip(y.planes(channel))
                .zip(g.planes(channel));
            for ((x, y), g) in planes {
                let found = Arch::new().dispatch(Pulled {
                    lines: [x, y, g],
                    mean: self.mean[channel],
                    floor: self.floor,
                });
                totals[0] += found[0];
                totals[1] += found[1];
            }
            (totals[0], totals[1] * f64::from(self.inverse[channel]))
        };
        (0..x.dims[1]).into_par_iter().map(of_channel).unzip()
    }

    /// The gradient with respect to x.
    fn pull_back(
        &self,
        x: &Floats,
        y: &Floats,
        g: &Floats,
        scale: &[f32],
        [sums, products]: [&[f64]; 2],
        like: &Tensor<4>,
    ) -> Tensor<4> {
        let [batch, _, height, width] = x.dims;
        let area = height * width;
        let count = (batch * area) as f64;
        let ([dx], _) = produce(batch, x.sample(), |i, [dx]| {
            let [x, y, g] = [x, y, g].map(|floats| floats.of_sample(i).chunks_exact(area));
            for (c, ((x, y), g)) in x.zip(y).zip(g).enumerate() {
                let inverse = self.inverse[c];
                Arch::new().dispatch(PullBack {
                    lines: [x, y, g],
                    dx: dx.zeros(area),
                    mean: self.mean[c],
                    floor: self.floor,
                    scale: scale[c] * inverse,
                    constant: (sums[c] / count) as f32,
                    slope: (products[c] / count) as f32 * inverse,
                });
            }
        });
        tensor(dx, x.dims, like)
    }
}

/// y = max((x - mean) scale + shift, floor).
struct Apply<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    mean: f32,
    scale: f32,
    shift: f32,
    floor: f32,
}

impl WithSimd for Apply<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            x,
            y,
            mean,
            scale,
            shift,
            floor,
        } = self;
        for (y, x) in y.iter_mut().zip(x) {
            let v = (*x - mean) * scale + shift;
            // Keeps NaN.
            *y = if v < floor { floor } else { v };
        }
    }
}

/// Sums over x, y and g.
struct Pulled<'a> {
    lines: [&'a [f32]; 3],
    mean: f32,
    floor: f32,
}

impl WithSimd for Pulled<'_> {
    type Output = [f64; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; 2] {
        let Self { lines, mean, floor } = self;
        let (zero, mean_vector) = (simd.splat_f32s(0.0), simd.splat_f32s(mean));
        let floor_vector = simd.splat_f32s(floor);
        let vectors = |[x, y, g]: [S::f32s; 3]| {
            let g = simd.select_f32s(simd.greater_than_f32s(y, floor_vector), g, zero);
            [g, simd.mul_f32s(g, simd.sub_f32s(x, mean_vector))]
        };
        let scalars = |[x, y, g]: [f32; 3]| {
            let g = if y > floor { g } else { 0.0 };
            [g, g * (x - mean)]
        };
        sums(simd, lines, vectors, scalars)
    }
}

/// dx = scale (g - constant - slope (x - mean)), with g where y is above the floor.
struct PullBack<'a> {
    lines: [&'a [f32]; 3],
    dx: &'a mut [f32],
    mean: f32,
    floor: f32,
    scale: f32,
    constant: f32,
    slope: f32,
}

impl WithSimd for PullBack<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            lines: [x, y, g],
            dx,
            mean,
            floor,
            scale,
            constant,
            slope,
        } = self;
        for (((dx, x), y), g) in dx.iter_mut().zip(x).zip(y).zip(g) {
            let g = if *y > floor { *g } else { 0.0 };
            *dx = scale * (g - constant - slope * (*x - mean));
        }
    }
}
