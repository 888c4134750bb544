//! 3 x 3 convolutions with half of the multiplications.
//!
//! This is Winograd's minimal filtering algorithm F(4, 3) (Lavin and Gray 2016, arXiv:1509.09308),
//! along columns only: six products of weights and rows, instead of twelve, give four rows of a 3 x
//! 3 convolution. In one direction the transforms are cheap, need no shuffles, and lose less than a
//! digit.
//!
//! A band is four rows. Its six transformed rows have a zero at their left, which is also the zero
//! at the right of the previous row. Vectors never extend past the end of a row. If rows are short,
//! a block takes its vectors from several bands.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::memory::{VECTORS, lend, room};

/// Rows of a band.
pub(super) const ROWS: usize = 4;
/// Products per band.
pub(super) const PRODUCTS: usize = 6;
/// Elements of transformed input per block: the first-level cache holds them.
const INPUT_AT_ONCE: usize = 7 << 10;
/// G: the weights of product k from those of three rows, for the points 0, 1, -1, 2, -2 and
/// infinity.
pub(super) const WEIGHTS: [[f32; 3]; PRODUCTS] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

thread_local! {
    pub(super) static INPUT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    pub(super) static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Number of bands of a plane.
pub(super) fn count([height, _]: [usize; 2]) -> usize {
    height.div_ceil(ROWS)
}

/// Length of a transformed plane.
pub(super) fn pixels(size: [usize; 2]) -> usize {
    count(size) * (size[1] + 1)
}

/// The weights `[block][product][in][column][output channel]` of a kernel. `at` maps an output
/// channel, an input channel and a tap to the position of a weight.
pub(super) fn fold(
    weights: &[f32],
    [out, channels_in]: [usize; 2],
    block: usize,
    at: impl Fn(usize, usize, usize) -> usize,
) -> Vec<f32> {
    let mut folded = vec![0.0; out.div_ceil(block) * block * channels_in * PRODUCTS * 3];
    for o in 0..out {
        for i in 0..channels_in {
            for (k, g) in WEIGHTS.iter().enumerate() {
                for column in 0..3 {
                    let place = (o / block * PRODUCTS + k) * channels_in + i;
                    let weight = |row: usize| g[row] * weights[at(o, i, 3 * row + column)];
                    folded[(place * 3 + column) * block + o % block] =
                        weight(0) + weight(1) + weight(2);
                }
            }
        }
    }
    folded
}

/// Convolves planes with weights of [`fold`], in blocks of `block` output channels.
pub(super) fn convolve(
    weights: &[f32],
    block: usize,
    size: [usize; 2],
    from: &[f32],
    to: &mut [f32],
) {
    lend(&INPUT, |lines| {
        lend(&SUMS, |sums| {
            Arch::new().dispatch(Convolve {
                weights,
                block,
                size,
                lines,
                sums,
                from,
                to,
            });
        });
    });
}

struct Convolve<'a> {
    weights: &'a [f32],
    block: usize,
    size: [usize; 2],
    lines: &'a mut Vec<f32>,
    sums: &'a mut Vec<f32>,
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
        let [height, width] = self.size;
        let (size, stride, lanes) = (height * width, width + 1, S::F32_LANES);
        let channels = self.from.len() / size;
        let (bands, across) = (count(self.size), width.div_ceil(lanes));
        let mut chunk = (INPUT_AT_ONCE / (channels * PRODUCTS * stride)).clamp(1, bands);
        if !across.is_multiple_of(VECTORS) {
            chunk = chunk.next_multiple_of(VECTORS).min(bands);
        }
        // The last vector of a row may run past its end.
        let line = (chunk - 1) * stride + across * lanes + 2;
        let lines = room(self.lines, PRODUCTS * channels * line);
        let sums = room(self.sums, PRODUCTS * OUT * VECTORS * lanes);
        let weights_of_product = channels * 3 * OUT;
        for first in (0..bands).step_by(chunk) {
            let made = chunk.min(bands - first);
            for (channel, from) in self.from.chunks_exact(size).enumerate() {
                let line_of = |k: usize| (k * channels + channel) * line;
                for band in 0..made {
                    let places = [line_of(0) + band * stride, line_of(1) - line_of(0)];
                    enter(simd, from, self.size, first + band, lines, places);
                }
                // The border at the right of the last band.
                for k in 0..PRODUCTS {
                    lines[line_of(k) + made * stride] = 0.0;
                }
            }
            let vectors = made * across;
            let blocks = self.weights.chunks_exact(weights_of_product * PRODUCTS);
            for (weights, to) in blocks.zip(self.to.chunks_mut(OUT * size)) {
                for vector in (0..vectors).step_by(VECTORS) {
                    let mut places = [[0; 2]; VECTORS];
                    let mut starts = [0; VECTORS];
                    for v in 0..VECTORS {
                        // Repeats the last one if their number is odd.
                        let vector = (vector + v).min(vectors - 1);
                        let (band, x) = (vector / across, vector % across * lanes);
                        places[v] = [ROWS * (first + band), x];
                        starts[v] = band * stride + x;
                    }
                    let of_product = weights.chunks_exact(weights_of_product);
                    let of_product = of_product.zip(lines.chunks_exact(channels * line));
                    let sums_of = sums.chunks_exact_mut(OUT * VECTORS * lanes);
                    for ((weights, lines), sums) in of_product.zip(sums_of) {
                        multiply::<S, OUT>(simd, weights, lines, line, starts, sums);
                    }
                    let (sums, _) = S::as_simd_f32s(sums);
                    for (o, to) in to.chunks_exact_mut(size).enumerate() {
                        for (v, [y, x]) in places.into_iter().enumerate() {
                            let mut products = [simd.splat_f32s(0.0); PRODUCTS];
                            for (k, product) in products.iter_mut().enumerate() {
                                *product = sums[(k * OUT + o) * VECTORS + v];
                            }
                            let made = rows_of_band(simd, products);
                            for (y, made) in (y..height).zip(&made) {
                                store(simd, &mut to[y * width + x..(y + 1) * width], *made);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The sums over input channels and columns for a block of output channels and pixels,
/// `[output channel][vector]`.
#[inline(always)]
fn multiply<S: Simd, const OUT: usize>(
    simd: S,
    weights: &[f32],
    lines: &[f32],
    line: usize,
    starts: [usize; VECTORS],
    to: &mut [f32],
) {
    let lanes = S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; OUT];
    let weights = weights.as_chunks::<OUT>().0.as_chunks::<3>().0;
    for (weights, from) in weights.iter().zip(lines.chunks_exact(line)) {
        let first = &from[starts[0]..starts[0] + lanes + 2];
        let second = &from[starts[1]..starts[1] + lanes + 2];
        for column in 0..3 {
            let x = [
                S::as_simd_f32s(&first[column..column + lanes]).0[0],
                S::as_simd_f32s(&second[column..column + lanes]).0[0],
            ];
            for (sums, weight) in sums.iter_mut().zip(&weights[column]) {
                let weight = simd.splat_f32s(*weight);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = simd.mul_add_e_f32s(weight, x, *sum);
                }
            }
        }
    }
    let to = S::as_mut_simd_f32s(to).0.as_chunks_mut::<VECTORS>().0;
    for (to, sums) in to.iter_mut().zip(sums) {
        *to = sums;
    }
}

/// The first numbers of a row, zero past its end.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, row: &[f32]) -> S::f32s {
    match S::as_simd_f32s(row).0.first() {
        Some(full) => *full,
        None => simd.partial_load_f32s(row),
    }
}

/// Writes as many numbers as fit into the row.
#[inline(always)]
fn store<S: Simd>(simd: S, row: &mut [f32], made: S::f32s) {
    match S::as_mut_simd_f32s(row).0.first_mut() {
        Some(full) => *full = made,
        None => simd.partial_store_f32s(row, made),
    }
}

/// The transform B'd: transforms the input rows of a band of the output. Line k, with its border on
/// the left, is at `start` + k `step`. Zeros may follow on the right.
#[inline(always)]
pub(super) fn enter<S: Simd>(
    simd: S,
    plane: &[f32],
    [height, width]: [usize; 2],
    band: usize,
    lines: &mut [f32],
    [start, step]: [usize; 2],
) {
    let lanes = S::F32_LANES;
    let scaled = |c: f32, x: S::f32s, y: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(c), x, y);
    let lines = &mut lines[start..];
    for k in 0..PRODUCTS {
        lines[k * step] = 0.0;
    }
    // The first row of the first band is above the plane, and some of the last may be below.
    let top = (ROWS * band).wrapping_sub(1);
    let inside = plane.get(top.wrapping_mul(width)..).unwrap_or_default();
    let inside = inside.get(..PRODUCTS * width).unwrap_or_default();
    for x in (0..width).step_by(lanes) {
        let mut d = [simd.splat_f32s(0.0); PRODUCTS];
        if !inside.is_empty() && x + lanes <= width {
            for (j, d) in d.iter_mut().enumerate() {
                *d = S::as_simd_f32s(&inside[j * width + x..][..lanes]).0[0];
            }
        } else {
            for (j, d) in d.iter_mut().enumerate() {
                let y = top.wrapping_add(j);
                if y < height {
                    *d = load(simd, &plane[y * width + x..(y + 1) * width]);
                }
            }
        }
        let [even, odd] = [scaled(-4.0, d[2], d[4]), scaled(-4.0, d[1], d[3])];
        let [fine, coarse] = [simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1])];
        let coarse = simd.add_f32s(coarse, coarse);
        let made = [
            scaled(4.0, d[0], scaled(-5.0, d[2], d[4])),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            simd.add_f32s(fine, coarse),
            simd.sub_f32s(fine, coarse),
            scaled(4.0, d[1], scaled(-5.0, d[3], d[5])),
        ];
        for k in 0..PRODUCTS {
            S::as_mut_simd_f32s(&mut lines[k * step + 1 + x..][..lanes]).0[0] = made[k];
        }
    }
}

/// A'm: four rows from six products.
#[inline(always)]
fn rows_of_band<S: Simd>(simd: S, m: [S::f32s; PRODUCTS]) -> [S::f32s; ROWS] {
    let scaled = |c: f32, x: S::f32s, y: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(c), x, y);
    let [a, b] = [simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2])];
    let [c, d] = [simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4])];
    [
        simd.add_f32s(m[0], simd.add_f32s(a, c)),
        scaled(2.0, d, b),
        scaled(4.0, c, a),
        simd.add_f32s(m[5], scaled(8.0, d, b)),
    ]
}
