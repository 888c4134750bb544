//! 3 x 3 convolutions with half of the multiplications.
//!
//! The minimal filtering algorithm F(4, 3) of Winograd (Lavin and Gray 2016, arXiv:1509.09308), along
//! columns only: four rows of a 3 x 3 convolution are made of six products of weights and rows
//! instead of twelve. In one direction the transforms are cheap, need no shuffles, and lose less
//! than a digit.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

use super::raster::{Correlate, PIXELS_AT_ONCE, Planes, Raster, SLACK, VECTORS, convolve_block};

thread_local! {
    static BANDS: RefCell<Bands> = RefCell::default();
    static GRADIENT: RefCell<Bands> = RefCell::default();
}

/// Planes with borders, transformed.
#[derive(Default)]
pub(super) struct Bands {
    /// `[channel][k][band][stride]`, and room to read past the end.
    lines: Vec<f32>,
    /// Length of the lines of a channel and a k.
    line: usize,
    count: usize,
}

/// Rows of a band.
const ROWS: usize = 4;
/// G: the weights of column k from those of three rows, for the points 0, 1, -1, 2, -2 and infinity.
pub(super) const BAND: [[f32; 3]; 6] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Lends the task the planes, transformed, in this thread's memory.
pub(super) fn of(raster: Raster, from: &[f32], task: impl FnOnce(&Bands)) {
    // Taken out, for a thread that waits for others may be given another task.
    let mut bands = BANDS.take();
    bands.transform(raster, from);
    task(&bands);
    BANDS.set(bands);
}

/// As [`raster::add_kernel_gradient`](super::raster::add_kernel_gradient) for 3 x 3 kernels, with half
/// of the multiplications: the transpose of what a convolution does, with respect to its weights.
pub(super) fn add_kernel_gradient(
    raster: Raster,
    samples: usize,
    x: &[f32],
    g: &[f32],
    sum: &mut [f32],
) {
    let samples = samples.max(1);
    let [from, to] = [x, g].map(|planes| planes.len() / samples);
    // A line is a quarter of a plane.
    let group = (ROWS * PIXELS_AT_ONCE / raster.size().max(1)).clamp(1, samples);
    let mut products = vec![0.0; sum.len() / 3 * BAND.len()];
    let (mut inputs, mut gradients) = (BANDS.take(), GRADIENT.take());
    for (x, g) in x.chunks(group * from).zip(g.chunks(group * to)) {
        inputs.transform(raster, x);
        gradients.transform_gradient(raster, g);
        let line = inputs.line;
        let offset = |k: usize| (0..3).map(move |column| (k * line + column, k * line));
        let offsets: Vec<_> = (0..BAND.len()).flat_map(offset).collect();
        let plane = BAND.len() * line;
        let [of_x, of_g] = [from, to].map(|n| n / raster.plane() * plane);
        Arch::new().dispatch(Correlate {
            plane,
            length: inputs.count * raster.stride(),
            offsets: &offsets,
            x: Planes {
                of: &inputs.lines,
                sample: of_x,
            },
            g: Planes {
                of: &gradients.lines,
                sample: of_g,
            },
            sum: &mut products,
        });
    }
    BANDS.set(inputs);
    GRADIENT.set(gradients);
    let kernels = products.as_chunks::<{ 3 * BAND.len() }>().0;
    for (products, sum) in kernels.iter().zip(sum.as_chunks_mut::<9>().0) {
        for (k, weights) in BAND.iter().enumerate() {
            for (row, weight) in weights.iter().enumerate() {
                for column in 0..3 {
                    sum[3 * row + column] += weight * products[3 * k + column];
                }
            }
        }
    }
}

impl Bands {
    /// Convolves with weights `[block][k][in][column][output channel]`, in blocks of so many output
    /// channels.
    pub(super) fn convolve(&self, block: usize, weights: &[f32], raster: Raster, to: &mut [f32]) {
        Arch::new().dispatch(ConvolveBands {
            weights,
            block,
            bands: self,
            raster,
            to,
        });
    }

    fn transform(&mut self, raster: Raster, from: &[f32]) {
        self.count = raster.height.div_ceil(ROWS);
        self.line = self.count * raster.stride() + SLACK;
        self.lines
            .resize(from.len() / raster.plane() * BAND.len() * self.line, 0.0);
        Arch::new().dispatch(Transform {
            bands: self,
            raster,
            from,
        });
    }

    /// For the gradient of a convolution: A times four rows, with A' what makes four rows of six
    /// products.
    fn transform_gradient(&mut self, raster: Raster, from: &[f32]) {
        self.count = raster.height.div_ceil(ROWS);
        self.line = self.count * raster.stride() + SLACK;
        self.lines
            .resize(from.len() / raster.plane() * BAND.len() * self.line, 0.0);
        Arch::new().dispatch(TransformGradient {
            bands: self,
            raster,
            from,
        });
    }
}

struct Transform<'a> {
    bands: &'a mut Bands,
    raster: Raster,
    from: &'a [f32],
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (line, stride) = (self.bands.line, self.raster.stride());
        let rows = self.raster.height + 2;
        let channels = self.bands.lines.chunks_exact_mut(BAND.len() * line);
        for (from, lines) in self.from.chunks_exact(self.raster.plane()).zip(channels) {
            let mut lines = lines.chunks_exact_mut(line);
            let mut lines: [&mut [f32]; 6] =
                std::array::from_fn(|_| lines.next().unwrap_or_default());
            for band in 0..self.bands.count {
                // Below the plane all is zero, as is the first row of the border.
                let row = |j: usize| match ROWS * band + j {
                    y if y < rows => &from[y * stride..(y + 1) * stride],
                    _ => &from[..stride],
                };
                let d: [&[f32]; 6] = std::array::from_fn(row);
                let lines = lines.each_mut().map(|l| &mut l[band * stride..][..stride]);
                for p in 0..stride {
                    let d: [f32; 6] = std::array::from_fn(|j| d[j][p]);
                    let [even, odd] = [d[4] - 4.0 * d[2], d[3] - 4.0 * d[1]];
                    let [fine, coarse] = [d[4] - d[2], 2.0 * (d[3] - d[1])];
                    lines[0][p] = 4.0 * d[0] - 5.0 * d[2] + d[4];
                    lines[1][p] = even + odd;
                    lines[2][p] = even - odd;
                    lines[3][p] = fine + coarse;
                    lines[4][p] = fine - coarse;
                    lines[5][p] = 4.0 * d[1] - 5.0 * d[3] + d[5];
                }
            }
            for line in &mut lines {
                line[self.bands.count * stride..].fill(0.0);
            }
        }
    }
}

struct TransformGradient<'a> {
    bands: &'a mut Bands,
    raster: Raster,
    from: &'a [f32],
}

impl WithSimd for TransformGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let (raster, line, stride) = (self.raster, self.bands.line, self.raster.stride());
        let channels = self.bands.lines.chunks_exact_mut(BAND.len() * line);
        for (from, lines) in self.from.chunks_exact(raster.plane()).zip(channels) {
            let mut lines = lines.chunks_exact_mut(line);
            let mut lines: [&mut [f32]; 6] =
                std::array::from_fn(|_| lines.next().unwrap_or_default());
            for band in 0..self.bands.count {
                // With the border behind a row, which is zero as all below the plane.
                let row = |j: usize| match ROWS * band + j {
                    y if y < raster.height => &from[raster.origin() + y * stride..][..stride],
                    _ => &from[..stride],
                };
                let g: [&[f32]; ROWS] = std::array::from_fn(row);
                let lines = lines.each_mut().map(|l| &mut l[band * stride..][..stride]);
                for p in 0..stride {
                    let g: [f32; ROWS] = std::array::from_fn(|j| g[j][p]);
                    let [even, odd] = [g[0] + g[2], g[1] + g[3]];
                    let [fine, coarse] = [g[0] + 4.0 * g[2], 2.0 * g[1] + 8.0 * g[3]];
                    lines[0][p] = g[0];
                    lines[1][p] = even + odd;
                    lines[2][p] = even - odd;
                    lines[3][p] = fine + coarse;
                    lines[4][p] = fine - coarse;
                    lines[5][p] = g[3];
                }
            }
            for line in &mut lines {
                line[self.bands.count * stride..].fill(0.0);
            }
        }
    }
}

struct ConvolveBands<'a> {
    weights: &'a [f32],
    block: usize,
    bands: &'a Bands,
    raster: Raster,
    to: &'a mut [f32],
}

impl WithSimd for ConvolveBands<'_> {
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

impl ConvolveBands<'_> {
    #[inline(always)]
    fn blocks<S: Simd, const OUT: usize>(self, simd: S) {
        let (raster, bands) = (self.raster, self.bands);
        let (plane, stride) = (raster.plane(), raster.stride());
        let planes = BAND.len() * bands.line;
        let weights_of_k = bands.lines.len() / planes * 3 * OUT;
        let pixels = VECTORS * S::F32_LANES;
        let taps: [[usize; 3]; 6] =
            std::array::from_fn(|k| std::array::from_fn(|column| k * bands.line + column));
        for band in 0..bands.count {
            let rows = (raster.height - ROWS * band).min(ROWS);
            for x in (0..raster.width).step_by(pixels) {
                let valid = pixels.min(raster.width - x);
                for (weights, to) in self
                    .weights
                    .chunks_exact(weights_of_k * BAND.len())
                    .zip(self.to.chunks_mut(OUT * plane))
                {
                    let start = band * stride + x;
                    let mut products = [[[simd.splat_f32s(0.0); VECTORS]; OUT]; 6];
                    let of_k = weights.chunks_exact(weights_of_k).zip(&taps);
                    for (products, (weights, taps)) in products.iter_mut().zip(of_k) {
                        *products = convolve_block::<S, OUT>(
                            simd,
                            weights,
                            &bands.lines,
                            planes,
                            taps,
                            start,
                        );
                    }
                    for (o, to) in to.chunks_exact_mut(plane).enumerate() {
                        let made = rows_of_band(simd, std::array::from_fn(|k| products[k][o]));
                        for (i, made) in made.iter().enumerate().take(rows) {
                            let at = raster.origin() + (ROWS * band + i) * stride + x;
                            let to = &mut to[at..at + valid];
                            if valid == pixels {
                                S::as_mut_simd_f32s(to).0.copy_from_slice(made);
                            } else {
                                let made: &[f32] = pulp::bytemuck::cast_slice(made);
                                to.copy_from_slice(&made[..valid]);
                            }
                        }
                    }
                }
            }
        }
        for plane in self.to.chunks_exact_mut(plane) {
            raster.clear_border(plane);
        }
    }
}

/// Four rows from six products.
#[inline(always)]
fn rows_of_band<S: Simd>(simd: S, m: [[S::f32s; VECTORS]; 6]) -> [[S::f32s; VECTORS]; ROWS] {
    let mut rows = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let scaled = |c: f32, x: S::f32s, y: S::f32s| simd.mul_add_e_f32s(simd.splat_f32s(c), x, y);
    for v in 0..VECTORS {
        let [a, b] = [
            simd.add_f32s(m[1][v], m[2][v]),
            simd.sub_f32s(m[1][v], m[2][v]),
        ];
        let [c, d] = [
            simd.add_f32s(m[3][v], m[4][v]),
            simd.sub_f32s(m[3][v], m[4][v]),
        ];
        rows[0][v] = simd.add_f32s(m[0][v], simd.add_f32s(a, c));
        rows[1][v] = scaled(2.0, d, b);
        rows[2][v] = scaled(4.0, c, a);
        rows[3][v] = simd.add_f32s(m[5][v], scaled(8.0, d, b));
    }
    rows
}
