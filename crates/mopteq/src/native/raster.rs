//! Convolutions of one sample on the CPU, in registers.
//!
//! A stride-1 convolution with zero padding is a sum of shifted planes. Planes are kept with their
//! zero border, and the border on the right of a row is the one on the left of the next: then a
//! shift is one offset for the whole plane, and the sum runs over the plane as over a line, with no
//! special case at the edges. A block of a few output channels by a few vectors of pixels stays in
//! registers through the whole sum over input channels and taps; the input of a block of pixels
//! stays in the first-level cache while all output channels are made of it. The instruction set is
//! chosen at run time.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::bands::{self, BAND};

/// Vectors of pixels in a block.
pub(super) const VECTORS: usize = 2;
/// Registers from which on blocks have 8 output channels instead of 4.
const WIDE: usize = 32;
/// Pixels of a few planes that the first-level cache holds.
pub(super) const PIXELS_AT_ONCE: usize = 1024;
/// Input channels from which on bands pay.
const LEAST_CHANNELS: usize = 8;
/// Narrower planes leave too much of a band's blocks empty.
const LEAST_WIDTH: usize = 12;
/// Multiplications from which on a convolution is spread over the cores: some tens of microseconds.
const WORTH_SPREADING: usize = 1 << 21;

/// Pixels that a block may run past the end of a plane, and the border of the last row.
pub(super) const SLACK: usize = VECTORS * 16 + 16;

/// Where the pixels of a plane with its border lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) height: usize,
    pub(crate) width: usize,
    /// Width of the border: half the kernel size, rounded down.
    border: usize,
}

impl Raster {
    /// For a plane of `[height, width]` and kernels of odd size.
    pub(crate) fn new([height, width]: [usize; 2], kernel: usize) -> Self {
        Self {
            height,
            width,
            border: kernel / 2,
        }
    }

    /// From a pixel to the one below.
    pub(super) fn stride(&self) -> usize {
        self.width + self.border
    }

    /// Of the first pixel.
    pub(super) fn origin(&self) -> usize {
        self.border * (self.stride() + 1)
    }

    /// From the first pixel to the border after the last row.
    fn span(&self) -> usize {
        self.height * self.stride()
    }

    /// Length of a plane with its border.
    pub(crate) fn plane(&self) -> usize {
        (self.height + 2 * self.border) * self.stride() + self.border + SLACK
    }

    /// Offsets of the taps of a kernel from its upper left one, row by row.
    fn taps(&self) -> impl Iterator<Item = usize> {
        let side = 0..2 * self.border + 1;
        let stride = self.stride();
        side.clone()
            .flat_map(move |y| side.clone().map(move |x| y * stride + x))
    }

    /// Pixels of a plane.
    pub(crate) fn size(&self) -> usize {
        self.height * self.width
    }

    /// The rows of a plane with its border.
    pub(crate) fn rows<'p>(&self, plane: &'p [f32]) -> impl Iterator<Item = &'p [f32]> {
        let width = self.width;
        plane[self.origin()..][..self.span()]
            .chunks_exact(self.stride().max(1))
            .map(move |row| &row[..width])
    }

    /// The rows of a plane with its border.
    pub(crate) fn rows_mut<'p>(&self, plane: &'p mut [f32]) -> impl Iterator<Item = &'p mut [f32]> {
        let width = self.width;
        plane[self.origin()..][..self.span()]
            .chunks_exact_mut(self.stride().max(1))
            .map(move |row| &mut row[..width])
    }

    /// Gives planes `[channels, height, width]` their borders.
    pub(crate) fn enter(&self, from: &[f32], to: &mut Vec<f32>) {
        let planes = from.len() / self.size();
        to.resize(planes * self.plane(), 0.0);
        for (from, to) in from
            .chunks_exact(self.size())
            .zip(to.chunks_exact_mut(self.plane()))
        {
            for (from, to) in from.chunks_exact(self.width).zip(self.rows_mut(to)) {
                to.copy_from_slice(from);
            }
            self.clear_border(to);
        }
    }

    /// Takes planes out of their borders.
    pub(crate) fn leave(&self, from: &[f32], to: &mut [f32]) {
        for (from, to) in from
            .chunks_exact(self.plane())
            .zip(to.chunks_exact_mut(self.size()))
        {
            for (from, to) in self.rows(from).zip(to.chunks_exact_mut(self.width)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// Makes everything but the pixels zero.
    pub(super) fn clear_border(&self, plane: &mut [f32]) {
        if self.border == 0 {
            plane[self.span()..].fill(0.0);
            return;
        }
        let (origin, span, width) = (self.origin(), self.span(), self.width);
        plane[..origin].fill(0.0);
        plane[origin + span..].fill(0.0);
        for row in plane[origin..][..span].chunks_exact_mut(self.stride()) {
            row[width..].fill(0.0);
        }
    }
}

/// A kernel `[out, in, k, k]`, its weights in the order in which a block needs them:
/// `[block of output channels][in][tap][output channel of the block]`.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    weights: Vec<f32>,
    /// Of 3 x 3 kernels, the weights of `bands`: `[block][k][in][column][output channel]`.
    banded: Option<Vec<f32>>,
    channels_out: usize,
    pub(crate) size: usize,
    block: usize,
}

/// Output channels of a block on this machine: sums and operands have to fit the registers.
fn block() -> usize {
    struct Registers;
    impl WithSimd for Registers {
        type Output = usize;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _simd: S) -> usize {
            if S::REGISTER_COUNT >= WIDE { 8 } else { 4 }
        }
    }
    Arch::new().dispatch(Registers)
}

impl Packed {
    /// The kernel `[out, in, k, k]` with these weights.
    pub(crate) fn new(weights: &[f32], [out, channels_in, size]: [usize; 3]) -> Self {
        Self::from(weights, [out, channels_in, size], |o, i, t| {
            (o * channels_in + i) * size * size + t
        })
    }

    /// The kernel of the transposed convolution: in and out exchanged, and flipped.
    pub(crate) fn transposed(weights: &[f32], [out, channels_in, size]: [usize; 3]) -> Self {
        let taps = size * size;
        Self::from(weights, [channels_in, out, size], |o, i, t| {
            (i * channels_in + o) * taps + taps - 1 - t
        })
    }

    fn from(
        weights: &[f32],
        [out, channels_in, size]: [usize; 3],
        at: impl Fn(usize, usize, usize) -> usize,
    ) -> Self {
        let (block, taps) = (block(), size * size);
        let mut packed = vec![0.0; out.div_ceil(block) * block * channels_in * taps];
        for o in 0..out {
            for i in 0..channels_in {
                for t in 0..taps {
                    let place = ((o / block * channels_in + i) * taps + t) * block + o % block;
                    packed[place] = weights[at(o, i, t)];
                }
            }
        }
        let banded = (size == 3 && channels_in >= LEAST_CHANNELS).then(|| {
            let mut banded = vec![0.0; out.div_ceil(block) * block * channels_in * BAND.len() * 3];
            for o in 0..out {
                for i in 0..channels_in {
                    for (k, g) in BAND.iter().enumerate() {
                        for column in 0..3 {
                            let place = (o / block * BAND.len() + k) * channels_in + i;
                            let weight = |row: usize| g[row] * weights[at(o, i, 3 * row + column)];
                            banded[(place * 3 + column) * block + o % block] =
                                weight(0) + weight(1) + weight(2);
                        }
                    }
                }
            }
            banded
        });
        Self {
            weights: packed,
            banded,
            channels_out: out,
            size,
            block,
        }
    }

    /// Number of output channels.
    pub(crate) fn channels_out(&self) -> usize {
        self.channels_out
    }

    /// Convolves planes with their borders; the result has its border, too, and reuses the memory
    /// of `to`. Work that is worth it is spread over the cores by output channels.
    pub(crate) fn convolve(&self, raster: Raster, from: &[f32], to: &mut Vec<f32>) {
        to.resize(self.channels_out * raster.plane(), 0.0);
        self.convolve_into(raster, from, to);
    }

    /// As [`convolve`](Self::convolve), into planes with borders.
    pub(crate) fn convolve_into(&self, raster: Raster, from: &[f32], to: &mut [f32]) {
        if let Some(weights) = &self.banded
            && raster.width >= LEAST_WIDTH
        {
            bands::of(raster, from, |bands| {
                self.spread(weights, raster, to, |weights, to| {
                    bands.convolve(self.block, weights, raster, to);
                });
            });
        } else {
            self.spread(&self.weights, raster, to, |weights, to| {
                Arch::new().dispatch(Convolve {
                    weights,
                    block: self.block,
                    raster,
                    from,
                    to,
                });
            });
        }
    }

    /// Computes output channels block by block, on several cores where the work is worth it.
    fn spread(
        &self,
        weights: &[f32],
        raster: Raster,
        to: &mut [f32],
        convolve: impl Fn(&[f32], &mut [f32]) + Send + Sync,
    ) {
        let blocks = self.channels_out.div_ceil(self.block);
        // Within a task there are others to keep the cores busy.
        let task = rayon::current_thread_index().is_some();
        if task || self.weights.len() * raster.span() < WORTH_SPREADING {
            return convolve(weights, to);
        }
        let share = blocks.div_ceil(rayon::current_num_threads());
        to.par_chunks_mut(share * self.block * raster.plane())
            .zip(weights.par_chunks(share * weights.len() / blocks))
            .for_each(|(to, weights)| convolve(weights, to));
    }
}

struct Convolve<'a> {
    weights: &'a [f32],
    block: usize,
    raster: Raster,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.block == 8 {
            self.blocks::<S, 8>(simd);
        } else {
            self.blocks::<S, 4>(simd);
        }
    }
}

impl Convolve<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const OUT: usize>(self, simd: S) {
        let raster = self.raster;
        let taps: Vec<usize> = raster.taps().collect();
        let (plane, origin, span) = (raster.plane(), raster.origin(), raster.span());
        let pixels = VECTORS * S::F32_LANES;
        let block = self.from.len() / plane * taps.len() * OUT;
        for start in (0..span).step_by(pixels) {
            for (weights, to) in self
                .weights
                .chunks_exact(block)
                .zip(self.to.chunks_mut(OUT * plane))
            {
                let sums = convolve_block::<S, OUT>(simd, weights, self.from, plane, &taps, start);
                for (to, sums) in to.chunks_exact_mut(plane).zip(sums) {
                    let at = origin + start;
                    S::as_mut_simd_f32s(&mut to[at..at + pixels])
                        .0
                        .copy_from_slice(&sums);
                }
            }
        }
        for plane in self.to.chunks_exact_mut(plane) {
            raster.clear_border(plane);
        }
    }
}

/// The sum over input channels and taps for a block of output channels and pixels.
#[inline(always)]
pub(super) fn convolve_block<S: Simd, const OUT: usize>(
    simd: S,
    weights: &[f32],
    from: &[f32],
    plane: usize,
    taps: &[usize],
    start: usize,
) -> [[S::f32s; VECTORS]; OUT] {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; OUT];
    let pixels = VECTORS * S::F32_LANES;
    let channels = weights.chunks_exact(taps.len() * OUT);
    for (weights, from) in channels.zip(from.chunks_exact(plane)) {
        let from = &from[start..];
        for (weights, tap) in weights.as_chunks::<OUT>().0.iter().zip(taps) {
            let x = S::as_simd_f32s(&from[*tap..*tap + pixels]).0;
            let x: [S::f32s; VECTORS] = std::array::from_fn(|v| x[v]);
            for (sums, weight) in sums.iter_mut().zip(weights) {
                let weight = simd.splat_f32s(*weight);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
    }
    sums
}

/// Adds to `sum`, `[out, in, k, k]`, the gradient with respect to the kernel of a convolution from
/// the planes `x` to planes whose gradient is `g`, both with their borders, for so many samples.
pub(crate) fn add_kernel_gradient(
    raster: Raster,
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    let channels = [x, g].map(|planes| planes.len() / samples.max(1) / raster.plane());
    let banded = raster.border == 1 && raster.width >= LEAST_WIDTH;
    if banded && channels.iter().all(|c| *c >= LEAST_CHANNELS) {
        return bands::add_kernel_gradient(raster, samples, x, g, sum);
    }
    // As many samples at once as the first-level cache holds: adding up a vector at the end costs
    // as much as a small plane.
    let group = (PIXELS_AT_ONCE / raster.span().max(1)).clamp(1, samples.max(1));
    let [from, to] = channels.map(|c| c * raster.plane());
    let offsets: Vec<_> = raster.taps().map(|tap| (tap, raster.origin())).collect();
    for (x, g) in x.chunks(group * from).zip(g.chunks(group * to)) {
        Arch::new().dispatch(Correlate {
            plane: raster.plane(),
            length: raster.span(),
            offsets: &offsets,
            x: Planes {
                of: x,
                sample: from,
            },
            g: Planes { of: g, sample: to },
            sum: &mut *sum,
        });
    }
}

/// Planes of several samples.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) of: &'a [f32],
    /// Length of a sample.
    pub(super) sample: usize,
}

/// Adds to `sum`, `[channel of g][channel of x][offset]`, the inner products of the planes of x and
/// of g from the offsets on, over all samples.
pub(super) struct Correlate<'a> {
    /// From one channel to the next.
    pub(super) plane: usize,
    /// Past this length, g is zero.
    pub(super) length: usize,
    /// In x and in g.
    pub(super) offsets: &'a [(usize, usize)],
    pub(super) x: Planes<'a>,
    pub(super) g: Planes<'a>,
    pub(super) sum: &'a mut [f32],
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
        let Self {
            plane,
            length,
            offsets,
            x,
            g,
            sum,
        } = self;
        let (channels_in, channels_out) = (x.sample / plane, g.sample / plane);
        let size = [plane, length];
        let mut o = 0;
        while o < channels_out {
            let wide = o + OUT <= channels_out;
            for i in (0..channels_in).step_by(2) {
                for (t, (from, to)) in offsets.iter().enumerate() {
                    let at = |o: usize, i: usize| (o * channels_in + i) * offsets.len() + t;
                    let (x, g) = ((x, i * plane + from), (g, o * plane + to));
                    match (wide, i + 1 < channels_in) {
                        (true, true) => {
                            let dots = dots::<S, OUT, 2>(simd, size, x, g);
                            for (k, dots) in dots.into_iter().enumerate() {
                                sum[at(o + k, i)] += dots[0];
                                sum[at(o + k, i + 1)] += dots[1];
                            }
                        }
                        (true, false) => {
                            let dots = dots::<S, OUT, 1>(simd, size, x, g);
                            for (k, dots) in dots.into_iter().enumerate() {
                                sum[at(o + k, i)] += dots[0];
                            }
                        }
                        (false, true) => {
                            let [dots] = dots::<S, 1, 2>(simd, size, x, g);
                            sum[at(o, i)] += dots[0];
                            sum[at(o, i + 1)] += dots[1];
                        }
                        (false, false) => {
                            let [[dot]] = dots::<S, 1, 1>(simd, size, x, g);
                            sum[at(o, i)] += dot;
                        }
                    }
                }
            }
            o += if wide { OUT } else { 1 };
        }
    }
}

/// Inner products of OUT lines of g with IN lines of x, from given offsets on, over all samples.
#[inline(always)]
fn dots<S: Simd, const OUT: usize, const IN: usize>(
    simd: S,
    [plane, length]: [usize; 2],
    (x, from): (Planes<'_>, usize),
    (g, to): (Planes<'_>, usize),
) -> [[f32; IN]; OUT] {
    let lanes = S::F32_LANES;
    let length = length.next_multiple_of(lanes);
    let mut sums = [[simd.splat_f32s(0.0); IN]; OUT];
    let samples = x.of.chunks_exact(x.sample).zip(g.of.chunks_exact(g.sample));
    for (x, g) in samples {
        let x: [&[S::f32s]; IN] =
            std::array::from_fn(|i| S::as_simd_f32s(&x[i * plane + from..][..length]).0);
        let g: [&[S::f32s]; OUT] =
            std::array::from_fn(|o| S::as_simd_f32s(&g[o * plane + to..][..length]).0);
        for p in 0..length / lanes {
            let x: [S::f32s; IN] = std::array::from_fn(|i| x[i][p]);
            for (sums, g) in sums.iter_mut().zip(g) {
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_e_f32s(g[p], x, *sum);
                }
            }
        }
    }
    // Loops, for the closures of `map` would not be compiled for this instruction set.
    let mut dots = [[0.0; IN]; OUT];
    for (dots, sums) in dots.iter_mut().zip(sums) {
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = simd.reduce_sum_f32s(sum);
        }
    }
    dots
}
