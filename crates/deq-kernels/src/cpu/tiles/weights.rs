//! A matrix of weights, and its products with planes.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::halves::split;
use super::unit::{DEPTH, Left, Right, SIDE, Unit};
use crate::cpu::direct::Raster;
use crate::cpu::memory::{lend, room};

/// Numbers of the left matrix of a step: the high halves and then the low ones.
const STEP: usize = 2 * SIDE * DEPTH;

thread_local! {
    static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A matrix `[out, taps * in]` as the left operand of products.
#[derive(Clone, Debug)]
pub(in crate::cpu) struct Weights {
    /// `[block of rows][tap][block of input channels]`, each a step of the unit.
    numbers: Vec<u16>,
    channels_in: usize,
}

impl Weights {
    /// `at` maps an output channel, an input channel and a tap to the position of a weight.
    pub(in crate::cpu) fn new(
        weights: &[f32],
        [out, channels_in, taps]: [usize; 3],
        at: impl Fn(usize, usize, usize) -> usize + Sync,
    ) -> Self {
        let depth = channels_in.div_ceil(DEPTH);
        let block = taps * depth * STEP;
        let mut numbers = vec![0; out.div_ceil(SIDE) * block];
        let blocks = numbers.par_chunks_mut(block).enumerate();
        blocks.for_each(|(block, numbers)| {
            for o in block * SIDE..out.min((block + 1) * SIDE) {
                for i in 0..channels_in {
                    for tap in 0..taps {
                        let step = tap * depth + i / DEPTH;
                        let place = step * STEP + o % SIDE * DEPTH + i % DEPTH;
                        let [high, low] = split(weights[at(o, i, tap)]);
                        numbers[place] = (high >> 16) as u16;
                        numbers[place + STEP / 2] = (low >> 16) as u16;
                    }
                }
            }
        });
        Self {
            numbers,
            channels_in,
        }
    }

    /// Pairs of channels, those that fill the tiles included.
    fn pairs(&self) -> usize {
        self.channels_in.next_multiple_of(DEPTH) / 2
    }

    /// Convolves planes `[in, height, width]` with borders of this kind to `[out, height, width]`.
    pub(in crate::cpu) fn convolve(&self, raster: Raster, from: &[f32], to: &mut [f32]) {
        let [_, width] = raster.shape();
        let (plane, stride) = (raster.plane().next_multiple_of(16), raster.stride());
        let taps: Vec<usize> = raster.taps().collect();
        let starts = self.starts(plane, &taps);
        let line = raster.span().next_multiple_of(SIDE) + 16;
        lend(&PAIRS, |pairs| {
            lend(&SUMS, |sums| {
                let pairs = self.enter(raster, plane, from, pairs);
                let sums = room(sums, SIDE * line);
                let blocks = self.numbers.chunks_exact(starts.len() * STEP);
                let planes = to.chunks_mut(SIDE * raster.size());
                let unit = Unit::enter();
                for (numbers, planes) in blocks.zip(planes) {
                    for start in (0..raster.span()).step_by(SIDE) {
                        let sums = &mut sums[start..];
                        unit.block(
                            left(numbers),
                            self.right(pairs, start, plane),
                            &starts,
                            sums,
                            line,
                        );
                    }
                    let lines = sums.chunks_exact(line);
                    for (plane, sums) in planes.chunks_exact_mut(raster.size()).zip(lines) {
                        let rows = plane.chunks_exact_mut(width);
                        for (row, sums) in rows.zip(sums.chunks_exact(stride)) {
                            row.copy_from_slice(&sums[..width]);
                        }
                    }
                }
            });
        });
    }

    /// The product with a matrix `[in, columns]` of rows of `columns` numbers, a multiple of 16.
    pub(in crate::cpu) fn multiply(&self, columns: usize, from: &[f32], to: &mut [f32]) {
        let raster = Raster::new([1, columns], 1);
        // Blocks may run past the end of a row.
        let plane = columns.next_multiple_of(SIDE);
        let starts = self.starts(plane, &[0]);
        let mut scratch = [0.0; SIDE * SIDE];
        lend(&PAIRS, |pairs| {
            let pairs = self.enter(raster, plane, from, pairs);
            let blocks = self.numbers.chunks_exact(starts.len() * STEP);
            let unit = Unit::enter();
            for (numbers, rows) in blocks.zip(to.chunks_mut(SIDE * columns)) {
                for start in (0..columns).step_by(SIDE) {
                    let right = self.right(pairs, start, plane);
                    if start + SIDE <= columns && rows.len() == SIDE * columns {
                        unit.block(left(numbers), right, &starts, &mut rows[start..], columns);
                        continue;
                    }
                    unit.block(left(numbers), right, &starts, &mut scratch, SIDE);
                    let wide = SIDE.min(columns - start);
                    for (row, sums) in rows
                        .chunks_exact_mut(columns)
                        .zip(scratch.chunks_exact(SIDE))
                    {
                        row[start..start + wide].copy_from_slice(&sums[..wide]);
                    }
                }
            }
        });
    }

    /// Where the pairs of each step start.
    fn starts(&self, plane: usize, taps: &[usize]) -> Vec<usize> {
        let blocks = 0..self.pairs() / (DEPTH / 2);
        let of_tap = |tap: &usize| {
            let tap = *tap;
            blocks
                .clone()
                .map(move |block| block * DEPTH / 2 * plane + tap)
        };
        taps.iter().flat_map(of_tap).collect()
    }

    fn right<'a>(&self, pairs: &'a [u32], start: usize, plane: usize) -> Right<'a> {
        Right {
            pairs: &pairs[start..],
            row: plane,
            low: self.pairs() * plane,
        }
    }

    /// Planes with borders as pairs of channels, all high halves and then all low ones.
    fn enter<'m>(
        &self,
        raster: Raster,
        plane: usize,
        from: &[f32],
        memory: &'m mut Vec<u32>,
    ) -> &'m [u32] {
        let half = self.pairs() * plane;
        // The last pixels of the last channel have a block's width after them.
        let to = room(memory, 2 * half + SIDE);
        Arch::new().dispatch(Enter {
            raster,
            plane,
            from,
            to: &mut to[..2 * half],
        });
        to
    }
}

/// A block of rows of packed weights.
fn left(numbers: &[u16]) -> Left<'_> {
    Left {
        numbers,
        row: DEPTH,
        low: STEP / 2,
        step: STEP,
    }
}

struct Enter<'a> {
    raster: Raster,
    plane: usize,
    from: &'a [f32],
    to: &'a mut [u32],
}

impl WithSimd for Enter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            raster,
            plane,
            from,
            to,
        } = self;
        let ([_, width], size) = (raster.shape(), raster.size());
        let (high, low) = to.split_at_mut(to.len() / 2);
        let mut channels = from.chunks(2 * size);
        for (high, low) in high
            .chunks_exact_mut(plane)
            .zip(low.chunks_exact_mut(plane))
        {
            high.fill(0);
            low.fill(0);
            let Some(pair) = channels.next() else {
                continue;
            };
            let (first, second) = pair.split_at(size);
            let mut at = raster.origin();
            for (y, first) in first.chunks_exact(width).enumerate() {
                let (high, low) = (&mut high[at..at + width], &mut low[at..at + width]);
                at += raster.stride();
                let places = high.iter_mut().zip(low);
                if second.is_empty() {
                    for ((high, low), x) in places.zip(first) {
                        let halves = split(*x);
                        (*high, *low) = (halves[0] >> 16, halves[1] >> 16);
                    }
                    continue;
                }
                let second = &second[y * width..(y + 1) * width];
                for (((high, low), x), next) in places.zip(first).zip(second) {
                    let (x, next) = (split(*x), split(*next));
                    (*high, *low) = (x[0] >> 16 | next[0], x[1] >> 16 | next[1]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::exact::{distance, numbers};
    use super::*;

    /// A convolution in f64, tap by tap.
    fn convolved(
        weights: &[f32],
        [out, channels, k]: [usize; 3],
        [height, width]: [usize; 2],
        from: &[f32],
    ) -> Vec<f64> {
        let mut to = vec![0.0; out * height * width];
        for (place, sum) in to.iter_mut().enumerate() {
            let (o, y, x) = (
                place / (height * width),
                place / width % height,
                place % width,
            );
            for i in 0..channels {
                for (dy, dx) in (0..k * k).map(|t| (t / k, t % k)) {
                    let (y, x) = (y + dy, x + dx);
                    let inside =
                        (k / 2..height + k / 2).contains(&y) && (k / 2..width + k / 2).contains(&x);
                    if inside {
                        let pixel = (i * height + y - k / 2) * width + x - k / 2;
                        let weight = weights[((o * channels + i) * k + dy) * k + dx];
                        *sum += f64::from(weight) * f64::from(from[pixel]);
                    }
                }
            }
        }
        to
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn convolutions_have_the_values_of_f64(
            out in 1_usize..70,
            channels in 1_usize..70,
            kernel in 0_usize..3,
            size in [1_usize..20, 1_usize..20],
            seed in any::<u64>(),
        ) {
            let k = 2 * kernel + 1;
            let weights = numbers(out * channels * k * k, seed);
            let from = numbers(channels * size[0] * size[1], seed ^ 1);
            let packed = Weights::new(&weights, [out, channels, k * k], |o, i, t| {
                (o * channels + i) * k * k + t
            });
            let mut to = vec![f32::NAN; out * size[0] * size[1]];
            packed.convolve(Raster::new(size, k), &from, &mut to);
            let expected = convolved(&weights, [out, channels, k], size, &from);
            prop_assert!(distance(&to, &expected) < 1e-5);
        }

        #[test]
        fn products_have_the_values_of_f64(
            out in 1_usize..70,
            channels in 1_usize..70,
            columns in 1_usize..8,
            seed in any::<u64>(),
        ) {
            let columns = 16 * columns;
            let weights = numbers(out * channels, seed);
            let from = numbers(channels * columns, seed ^ 1);
            let packed = Weights::new(&weights, [out, channels, 1], |o, i, _| o * channels + i);
            let mut to = vec![f32::NAN; out * columns];
            packed.multiply(columns, &from, &mut to);
            let expected = convolved(&weights, [out, channels, 1], [1, columns], &from);
            prop_assert!(distance(&to, &expected) < 1e-5);
        }
    }

    #[test]
    fn a_pixel_that_is_no_number_reaches_the_sums_around_it() {
        let weights = vec![1.0; 32 * 32 * 9];
        let packed = Weights::new(&weights, [32, 32, 9], |o, i, t| (o * 32 + i) * 9 + t);
        let mut from = vec![1.0; 32 * 64];
        from[27] = f32::NAN;
        let mut to = vec![0.0; 32 * 64];
        let raster = Raster::new([8, 8], 3);
        packed.convolve(raster, &from, &mut to);
        let lost = to[..64].iter().filter(|y| y.is_nan()).count();
        assert_eq!(lost, 9);
        // Memory that held it is not read again.
        from[27] = 1.0;
        packed.convolve(raster, &from, &mut to);
        assert!(to.iter().all(|y| y.is_finite()));
    }
}
