//! Kernels in the memory order of the CPU's convolutions, and the choice between the convolutions.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::direct::{self, Raster};
use super::memory::{VECTORS, WIDE};
use super::tiles::{self, Weights};
use super::{winograd, winograd_gradient};

/// Multiplications above which a convolution is spread over the cores: some tens of microseconds.
const WORTH_SPREADING: usize = 1 << 21;
/// Pixels of all samples above which a kernel gradient is computed by bands. With fewer, summing
/// the vectors at the end costs more than the saved multiplications.
const LEAST_PIXELS: usize = 64;

/// How exact a convolution is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exactness {
    /// To the precision of f32, which solvers with tight tolerances need.
    Single,
    /// To the precision of `tiles`, if the machine has a tile unit.
    Halves,
}

impl Exactness {
    /// Whether the tile unit computes a convolution between these numbers of channels.
    fn takes_tiles(self, channels: [usize; 2]) -> bool {
        self == Self::Halves && tiles::present() && channels.into_iter().all(tiles::pay)
    }
}

/// A kernel `[out, in, k, k]` in the memory order of a convolution.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    order: Order,
    channels_out: usize,
    size: usize,
}

#[derive(Clone, Debug)]
enum Order {
    Vectors(Vectors),
    Tiles(Weights),
}

/// For `direct` and `winograd`.
#[derive(Clone, Debug)]
struct Vectors {
    /// `[block of output channels][in][tap][output channel of the block]`.
    weights: Vec<f32>,
    /// For 3 x 3 kernels, the weights of `winograd`: `[block][k][in][column][output channel]`.
    banded: Option<Vec<f32>>,
    machine: Machine,
}

/// Block sizes on this machine.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// Output channels per block. Sums and operands must fit the registers.
    block: usize,
    /// Elements of a vector.
    lanes: usize,
}

impl Machine {
    fn new() -> Self {
        struct Look;
        impl WithSimd for Look {
            type Output = Machine;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _simd: S) -> Machine {
                Machine {
                    block: if S::REGISTER_COUNT >= WIDE { 8 } else { 4 },
                    lanes: S::F32_LANES,
                }
            }
        }
        Arch::new().dispatch(Look)
    }

    /// Whether a 3 x 3 convolution of such planes takes no more multiplications by bands, including
    /// the lanes past the ends of lines.
    fn prefers_bands(self, size: [usize; 2]) -> bool {
        let blocks = |vectors: usize| vectors.div_ceil(VECTORS);
        let by_bands = 2 * blocks(winograd::count(size) * size[1].div_ceil(self.lanes));
        by_bands <= blocks(Raster::new(size, 3).span().div_ceil(self.lanes))
    }
}

impl Packed {
    /// The kernel `[out, in, k, k]` with these weights.
    pub(crate) fn new(
        weights: &[f32],
        [out, channels_in, size]: [usize; 3],
        exactness: Exactness,
    ) -> Self {
        let at = |o, i, t| (o * channels_in + i) * size * size + t;
        Self::from(weights, [out, channels_in, size], exactness, at)
    }

    /// The kernel of the transposed convolution: in and out exchanged, and flipped.
    pub(crate) fn transposed(
        weights: &[f32],
        [out, channels_in, size]: [usize; 3],
        exactness: Exactness,
    ) -> Self {
        let taps = size * size;
        let at = |o, i, t| (i * channels_in + o) * taps + taps - 1 - t;
        Self::from(weights, [channels_in, out, size], exactness, at)
    }

    fn from(
        weights: &[f32],
        [out, channels_in, size]: [usize; 3],
        exactness: Exactness,
        at: impl Fn(usize, usize, usize) -> usize + Sync,
    ) -> Self {
        let order = if exactness.takes_tiles([channels_in, out]) {
            Order::Tiles(Weights::new(weights, [out, channels_in, size * size], at))
        } else {
            Order::Vectors(Vectors::new(weights, [out, channels_in, size], at))
        };
        Self {
            order,
            channels_out: out,
            size,
        }
    }

    /// Number of output channels.
    pub(crate) fn channels_out(&self) -> usize {
        self.channels_out
    }

    /// Convolves planes `[in, height, width]` to `[out, height, width]`.
    pub(crate) fn convolve(&self, size: [usize; 2], from: &[f32], to: &mut [f32]) {
        let raster = Raster::new(size, self.size);
        match &self.order {
            Order::Tiles(weights) => weights.convolve(raster, from, to),
            Order::Vectors(vectors) => vectors.convolve(raster, from, to),
        }
    }
}

impl Vectors {
    fn new(
        weights: &[f32],
        [out, channels_in, size]: [usize; 3],
        at: impl Fn(usize, usize, usize) -> usize,
    ) -> Self {
        let machine = Machine::new();
        let (block, taps) = (machine.block, size * size);
        let mut packed = vec![0.0; out.div_ceil(block) * block * channels_in * taps];
        for o in 0..out {
            for i in 0..channels_in {
                for t in 0..taps {
                    let place = ((o / block * channels_in + i) * taps + t) * block + o % block;
                    packed[place] = weights[at(o, i, t)];
                }
            }
        }
        let banded =
            (size == 3).then(|| winograd::fold(weights, [out, channels_in], machine.block, at));
        Self {
            weights: packed,
            banded,
            machine,
        }
    }

    /// Large work is spread over the cores by output channels.
    fn convolve(&self, raster: Raster, from: &[f32], to: &mut [f32]) {
        let (block, size) = (self.machine.block, raster.shape());
        match &self.banded {
            Some(weights) if self.machine.prefers_bands(size) => {
                self.spread(weights, size, to, |weights, to| {
                    winograd::convolve(weights, block, size, from, to);
                });
            }
            _ => direct::with_border(raster, from, |raster, from| {
                self.spread(&self.weights, size, to, |weights, to| {
                    direct::convolve(weights, block, raster, from, to);
                });
            }),
        }
    }

    /// Computes output channels block by block, on several cores if there is enough work.
    fn spread(
        &self,
        weights: &[f32],
        [height, width]: [usize; 2],
        to: &mut [f32],
        convolve: impl Fn(&[f32], &mut [f32]) + Send + Sync,
    ) {
        let blocks = to.len().div_ceil(self.machine.block * height * width);
        // Inside a task, other tasks keep the cores busy.
        let task = rayon::current_thread_index().is_some();
        if task || self.weights.len() * height * width < WORTH_SPREADING {
            return convolve(weights, to);
        }
        let share = blocks.div_ceil(rayon::current_num_threads());
        to.par_chunks_mut(share * self.machine.block * height * width)
            .zip(weights.par_chunks(share * weights.len() / blocks))
            .for_each(|(to, weights)| convolve(weights, to));
    }
}

/// Adds the kernel gradient of a convolution to `sum`, `[out, in, k, k]`. `x`,
/// `[samples, in, height, width]`, holds the input planes and `g` the gradient of the output
/// planes.
pub(crate) fn add_kernel_gradient(
    exactness: Exactness,
    size: [usize; 2],
    kernel: usize,
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    let raster = Raster::new(size, kernel);
    let channels = [x, g].map(|planes| planes.len() / (samples * raster.size()).max(1));
    if exactness.takes_tiles(channels) {
        tiles::add_kernel_gradient(raster, samples, x, g, sum);
    } else if kernel == 3 && samples * winograd::pixels(size) >= LEAST_PIXELS {
        winograd_gradient::add_kernel_gradient(size, samples, x, g, sum);
    } else {
        direct::add_kernel_gradient(raster, samples, x, g, sum);
    }
}
