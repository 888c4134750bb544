//! Convolutions of one sample on the CPU, in registers.
//!
//! A stride-1 convolution with zero padding is a sum of shifted planes. Planes have a zero border,
//! and the right border of a row is the left border of the next row. A shift is therefore one
//! offset for the whole plane, and the sum treats the plane as one line, without special cases at
//! the edges. A block of a few output channels by a few vectors of pixels stays in registers for
//! the whole sum over input channels and taps. The input of a block of pixels stays in the
//! first-level cache while all output channels are computed from it. The instruction set is chosen
//! at run time.
//!
//! Inner loops are over arrays. A closure, including one in `array::from_fn` or `map`, may stay a
//! separate function, which is not compiled for that instruction set.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::memory::{VECTORS, WIDE, lend, room};

/// Pixels per block: the first-level cache holds a few planes of this size.
const PIXELS_AT_ONCE: usize = 1024;
/// Pixels that a block may run past the end of a plane, plus the border of the last row.
const SLACK: usize = VECTORS * 16 + 16;

thread_local! {
    /// Planes with borders.
    static INPUT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static OUTPUT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Memory layout of a plane with its border.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raster {
    height: usize,
    width: usize,
    /// Width of the border: half the kernel size, rounded down.
    border: usize,
}

impl Raster {
    /// The layout of a plane of `[height, width]` for kernels of odd size.
    pub(super) fn new([height, width]: [usize; 2], kernel: usize) -> Self {
        Self {
            height,
            width,
            border: kernel / 2,
        }
    }

    /// Offset from a pixel to the one below.
    pub(super) fn stride(&self) -> usize {
        self.width + self.border
    }

    /// Offset of the first pixel.
    pub(super) fn origin(&self) -> usize {
        self.border * (self.stride() + 1)
    }

    /// Distance from the first pixel to the border after the last row.
    pub(super) fn span(&self) -> usize {
        self.height * self.stride()
    }

    /// Length of a plane with its border.
    pub(super) fn plane(&self) -> usize {
        (self.height + 2 * self.border) * self.stride() + self.border + SLACK
    }

    /// Offsets of the taps of a kernel from its upper left tap, row by row.
    pub(super) fn taps(&self) -> impl Iterator<Item = usize> {
        let side = 0..2 * self.border + 1;
        let stride = self.stride();
        side.clone()
            .flat_map(move |y| side.clone().map(move |x| y * stride + x))
    }

    /// Height and width of a plane.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.height, self.width]
    }

    /// Number of pixels of a plane.
    pub(super) fn size(&self) -> usize {
        self.height * self.width
    }

    /// The rows of a plane with its border.
    fn rows<'p>(&self, plane: &'p [f32]) -> impl Iterator<Item = &'p [f32]> {
        let width = self.width;
        plane[self.origin()..][..self.span()]
            .chunks_exact(self.stride().max(1))
            .map(move |row| &row[..width])
    }

    /// The rows of a plane with its border.
    fn rows_mut<'p>(&self, plane: &'p mut [f32]) -> impl Iterator<Item = &'p mut [f32]> {
        let width = self.width;
        plane[self.origin()..][..self.span()]
            .chunks_exact_mut(self.stride().max(1))
            .map(move |row| &mut row[..width])
    }

    /// Copies planes `[channels, height, width]` into this memory and adds their borders.
    fn enter<'m>(&self, from: &[f32], to: &'m mut Vec<f32>) -> &'m [f32] {
        let planes = from.len() / self.size();
        let to = room(to, planes * self.plane());
        for (from, to) in from
            .chunks_exact(self.size())
            .zip(to.chunks_exact_mut(self.plane()))
        {
            for (from, to) in from.chunks_exact(self.width).zip(self.rows_mut(to)) {
                to.copy_from_slice(from);
            }
            self.clear_border(to);
        }
        to
    }

    /// Copies planes without their borders.
    fn leave(&self, from: &[f32], to: &mut [f32]) {
        for (from, to) in from
            .chunks_exact(self.plane())
            .zip(to.chunks_exact_mut(self.size()))
        {
            for (from, to) in self.rows(from).zip(to.chunks_exact_mut(self.width)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// Sets everything except the pixels to zero.
    fn clear_border(&self, plane: &mut [f32]) {
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

/// Runs a task on the planes `[channels, height, width]` with their borders.
pub(super) fn with_border(raster: Raster, from: &[f32], task: impl FnOnce(Raster, &[f32])) {
    lend(&INPUT, |memory| task(raster, raster.enter(from, memory)));
}

/// Convolves planes with borders to planes without, with weights
/// `[block of output channels][in][tap][output channel of the block]`.
pub(super) fn convolve(
    weights: &[f32],
    block: usize,
    raster: Raster,
    from: &[f32],
    to: &mut [f32],
) {
    lend(&OUTPUT, |memory| {
        let made = room(memory, to.len() / raster.size() * raster.plane());
        Arch::new().dispatch(Convolve {
            weights,
            block,
            raster,
            from,
            to: &mut *made,
        });
        raster.leave(made, to);
    });
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
    }
}

/// The sum over input channels and taps for a block of output channels and pixels.
#[inline(always)]
fn convolve_block<S: Simd, const OUT: usize>(
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
            let x = &x.as_chunks::<VECTORS>().0[0];
            for (sums, weight) in sums.iter_mut().zip(weights) {
                let weight = simd.splat_f32s(*weight);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_e_f32s(weight, *x, *sum);
                }
            }
        }
    }
    sums
}

/// Like `kernel::add_kernel_gradient`, for kernels of any odd
/// size.
pub(super) fn add_kernel_gradient(
    raster: Raster,
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    // The first-level cache limits the number of samples per group. Larger groups pay because the
    // final sum over a vector costs as much as a small plane.
    let group = (PIXELS_AT_ONCE / raster.span().max(1)).clamp(1, samples.max(1));
    let [from, to] = [x, g].map(|planes| planes.len() / samples.max(1));
    let taps: Vec<_> = raster.taps().collect();
    lend(&INPUT, |input| {
        lend(&OUTPUT, |output| {
            for (x, g) in x.chunks(group * from).zip(g.chunks(group * to)) {
                let planes = |n: usize| n / raster.size() * raster.plane();
                Arch::new().dispatch(Correlate {
                    raster,
                    taps: &taps,
                    x: Planes {
                        of: raster.enter(x, input),
                        sample: planes(from),
                    },
                    g: Planes {
                        of: raster.enter(g, output),
                        sample: planes(to),
                    },
                    sum: &mut *sum,
                });
            }
        });
    });
}

/// Planes of several samples.
#[derive(Clone, Copy)]
struct Planes<'a> {
    of: &'a [f32],
    /// Length of a sample.
    sample: usize,
}

/// Adds to `sum`, `[channel of g][channel of x][tap]`, the inner products of the shifted planes of
/// x and those of g, over all samples.
struct Correlate<'a> {
    raster: Raster,
    taps: &'a [usize],
    x: Planes<'a>,
    g: Planes<'a>,
    sum: &'a mut [f32],
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
            raster,
            taps,
            x,
            g,
            sum,
        } = self;
        let (plane, to) = (raster.plane(), raster.origin());
        let (channels_in, channels_out) = (x.sample / plane, g.sample / plane);
        let size = [plane, raster.span()];
        let mut o = 0;
        while o < channels_out {
            let wide = o + OUT <= channels_out;
            for i in (0..channels_in).step_by(2) {
                for (t, from) in taps.iter().enumerate() {
                    let at = |o: usize, i: usize| (o * channels_in + i) * taps.len() + t;
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
        let mut xs: [&[S::f32s]; IN] = [&[]; IN];
        for (i, line) in xs.iter_mut().enumerate() {
            *line = S::as_simd_f32s(&x[i * plane + from..][..length]).0;
        }
        let mut gs: [&[S::f32s]; OUT] = [&[]; OUT];
        for (o, line) in gs.iter_mut().enumerate() {
            *line = S::as_simd_f32s(&g[o * plane + to..][..length]).0;
        }
        for p in 0..length / lanes {
            for (sums, g) in sums.iter_mut().zip(&gs) {
                for (sum, x) in sums.iter_mut().zip(&xs) {
                    *sum = simd.mul_add_e_f32s(g[p], x[p], *sum);
                }
            }
        }
    }
    let mut dots = [[0.0; IN]; OUT];
    for (dots, sums) in dots.iter_mut().zip(sums) {
        for (dot, sum) in dots.iter_mut().zip(sums) {
            *dot = simd.reduce_sum_f32s(sum);
        }
    }
    dots
}
