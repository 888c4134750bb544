//! Kernel gradients: products of the gradient's planes with the shifted planes of the input.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::halves::split;
use super::unit::{DEPTH, Left, Right, SIDE, Unit};
use crate::cpu::direct::Raster;
use crate::cpu::memory::{lend, room};

/// Numbers of both operands per group of samples: the second-level cache holds their halves.
const AT_ONCE: usize = 1 << 17;

thread_local! {
    static LINES: RefCell<[Vec<u16>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Adds the kernel gradient of a convolution to `sum`, `[out, in, k, k]`, from the input planes x
/// and the gradient g of the output planes.
pub(in crate::cpu) fn add_kernel_gradient(
    raster: Raster,
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    let [from, to] = [x, g].map(|planes| planes.len() / samples.max(1));
    let [channels_in, channels_out] = [from, to].map(|n| n / raster.size());
    // After the last row, a plane has as many zeros as a tap can point back.
    let rows = raster.span() + 2 * raster.origin();
    let plane = rows.next_multiple_of(DEPTH);
    let group = AT_ONCE / (plane * (channels_in + channels_out));
    let group = group.clamp(1, samples.max(1));
    let unit = Unit::enter();
    for (x, g) in x.chunks(group * from).zip(g.chunks(group * to)) {
        let length = x.len() / from * plane;
        lend(&LINES, |[x_lines, g_lines]| {
            lend(&PAIRS, |pairs| {
                let lines = |channels: usize, margin: usize| Lines {
                    raster,
                    plane,
                    length,
                    margin,
                    channels: channels.next_multiple_of(SIDE),
                };
                // A tap points back from the first plane, too.
                let margin = raster.origin().next_multiple_of(DEPTH);
                let (of_x, of_g) = (lines(channels_in, 0), lines(channels_out, margin));
                let x = of_x.enter(x, x_lines);
                let g = of_g.enter(g, g_lines);
                let pairs = of_x.turn(x, pairs);
                correlate(
                    &unit,
                    raster,
                    [&of_x, &of_g],
                    pairs,
                    g,
                    [channels_in, channels_out],
                    sum,
                );
            });
        });
    }
}

/// Adds the products of g with the shifted x to `[channel of g][channel of x][tap]`.
fn correlate(
    unit: &Unit,
    raster: Raster,
    [of_x, of_g]: [&Lines; 2],
    x: &[u32],
    g: &[u16],
    [channels_in, channels_out]: [usize; 2],
    sum: &mut [f32],
) {
    let row = of_x.channels;
    let starts = (0..of_x.length).step_by(DEPTH);
    let starts: Vec<usize> = starts.map(|pixel| pixel / 2 * row).collect();
    let taps: Vec<usize> = raster.taps().collect();
    let mut made = [0.0; SIDE * SIDE];
    for o in (0..channels_out).step_by(SIDE) {
        for i in (0..channels_in).step_by(SIDE) {
            for (t, tap) in taps.iter().enumerate() {
                // The output of a pixel lies at that pixel, and its upper left tap at the start of the
                // plane.
                let first = o * of_g.row() + of_g.margin + raster.origin() - tap;
                let left = Left {
                    numbers: &g[first..],
                    row: of_g.row(),
                    low: of_g.half(),
                    step: DEPTH,
                };
                let right = Right {
                    pairs: &x[i..],
                    row,
                    low: of_x.length / 2 * row,
                };
                unit.block(left, right, &starts, &mut made, SIDE);
                let wide = SIDE.min(channels_in - i);
                for (r, made) in made.chunks_exact(SIDE).take(channels_out - o).enumerate() {
                    let at = ((o + r) * channels_in + i) * taps.len() + t;
                    let places = sum[at..].iter_mut().step_by(taps.len());
                    for (sum, made) in places.zip(&made[..wide]) {
                        *sum += made;
                    }
                }
            }
        }
    }
}

/// The halves of planes with borders: all samples of a channel one after the other, all high halves
/// and then all low ones.
struct Lines {
    raster: Raster,
    /// Length of a plane with its border.
    plane: usize,
    /// Length of all samples.
    length: usize,
    /// Zeros before the first and after the last sample.
    margin: usize,
    /// Channels, those that fill the tiles included.
    channels: usize,
}

impl Lines {
    fn row(&self) -> usize {
        // One step more, because blocks start between pixels.
        self.length + 2 * self.margin + DEPTH
    }

    fn half(&self) -> usize {
        self.channels * self.row()
    }

    fn enter<'m>(&self, from: &[f32], memory: &'m mut Vec<u16>) -> &'m [u16] {
        let to = room(memory, 2 * self.half() + DEPTH);
        Arch::new().dispatch(Enter {
            lines: self,
            from,
            to: &mut *to,
        });
        to
    }

    /// The same with a pair of pixels in the place of a row, and channels as columns.
    fn turn<'m>(&self, lines: &[u16], memory: &'m mut Vec<u32>) -> &'m [u32] {
        let pixels = self.length / 2;
        let to = room(memory, 2 * pixels * self.channels + SIDE);
        let halves = lines.chunks_exact(self.half());
        for (to, lines) in to.chunks_exact_mut(pixels * self.channels).zip(halves) {
            Arch::new().dispatch(Turn {
                row: self.row(),
                channels: self.channels,
                from: lines,
                to,
            });
        }
        to
    }
}

struct Enter<'a> {
    lines: &'a Lines,
    from: &'a [f32],
    to: &'a mut [u16],
}

impl WithSimd for Enter<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self { lines, from, to } = self;
        let raster = lines.raster;
        let ([_, width], size) = (raster.shape(), raster.size());
        let samples = lines.length / lines.plane;
        let channels = from.len() / samples / size;
        to.fill(0);
        let (high, low) = to.split_at_mut(lines.half());
        for (n, sample) in from.chunks_exact(channels * size).enumerate() {
            for (channel, pixels) in sample.chunks_exact(size).enumerate() {
                let mut at =
                    channel * lines.row() + lines.margin + n * lines.plane + raster.origin();
                for row in pixels.chunks_exact(width) {
                    let (high, low) = (&mut high[at..at + width], &mut low[at..at + width]);
                    at += raster.stride();
                    for ((high, low), x) in high.iter_mut().zip(low).zip(row) {
                        let halves = split(*x);
                        (*high, *low) = ((halves[0] >> 16) as u16, (halves[1] >> 16) as u16);
                    }
                }
            }
        }
    }
}

/// Turns rows of channels into rows of pairs of pixels.
struct Turn<'a> {
    row: usize,
    channels: usize,
    from: &'a [u16],
    to: &'a mut [u32],
}

impl WithSimd for Turn<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        const BLOCK: usize = 16;
        let Self {
            row,
            channels,
            from,
            to,
        } = self;
        // Rows are multiples of 32 numbers, and channels of 32.
        for (block, to) in to.chunks_exact_mut(BLOCK * channels).enumerate() {
            for first in (0..channels).step_by(BLOCK) {
                let mut square = [[0; BLOCK]; BLOCK];
                for (channel, column) in square.iter_mut().enumerate() {
                    let numbers = &from[(first + channel) * row + 2 * BLOCK * block..][..2 * BLOCK];
                    for (pair, numbers) in column.iter_mut().zip(numbers.as_chunks::<2>().0) {
                        *pair = u32::from(numbers[0]) | u32::from(numbers[1]) << 16;
                    }
                }
                for (pixel, to) in to.chunks_exact_mut(channels).enumerate() {
                    for (channel, to) in to[first..first + BLOCK].iter_mut().enumerate() {
                        *to = square[channel][pixel];
                    }
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn kernel_gradients_have_the_values_of_f64(
            out in 1_usize..50,
            channels in 1_usize..50,
            kernel in 0_usize..3,
            size in [1_usize..16, 1_usize..16],
            samples in 1_usize..5,
            seed in any::<u64>(),
        ) {
            let (k, [height, width]) = (2 * kernel + 1, size);
            let area = height * width;
            let x = numbers(samples * channels * area, seed);
            let g = numbers(samples * out * area, seed ^ 1);
            let before = numbers(out * channels * k * k, seed ^ 2);
            let mut expected: Vec<f64> = before.iter().map(|x| f64::from(*x)).collect();
            for (place, sum) in expected.iter_mut().enumerate() {
                let (o, i) = (place / (channels * k * k), place / (k * k) % channels);
                let (dy, dx) = (place / k % k, place % k);
                for n in 0..samples {
                    for (y, xx) in (0..area).map(|p| (p / width, p % width)) {
                        let (py, px) = (y + dy, xx + dx);
                        let inside = (k / 2..height + k / 2).contains(&py)
                            && (k / 2..width + k / 2).contains(&px);
                        if inside {
                            let pixel = (py - k / 2) * width + px - k / 2;
                            let g = g[(n * out + o) * area + y * width + xx];
                            let x = x[(n * channels + i) * area + pixel];
                            *sum += f64::from(g) * f64::from(x);
                        }
                    }
                }
            }
            let mut sum = before;
            add_kernel_gradient(Raster::new(size, k), samples, &x, &g, &mut sum);
            prop_assert!(distance(&sum, &expected) < 1e-5);
        }
    }
}
