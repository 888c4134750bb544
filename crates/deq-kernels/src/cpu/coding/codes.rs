//! The codes of a batch at the resolution of the first branch, and their product with G.

use burn::tensor::Tensor;
use pulp::{Arch, Simd, WithSimd};

use crate::cpu::memory::{Floats, LANES, room};
use crate::cpu::pooling::Grid;
use crate::cpu::tiles::{self, Weights};
use crate::formula::{Kernel, Prox, StepFormula};
use crate::inputs::Inputs;
use crate::solve::SolveLimits;

/// Rows of G in a block of the product.
const ROWS: usize = 8;
/// Smallest relative tolerance at which products of `tiles` are exact enough. Their errors are
/// below 1e-5.
const LOOSE: f64 = 1e-4;

/// Shapes of a batch, and G in blocks of rows.
pub(super) struct Codes {
    /// Height and width of the branches.
    sizes: Vec<[usize; 2]>,
    /// Channels of the branches.
    channels: Vec<usize>,
    gram: Gram,
    /// 1 - step q, and step.
    pub(super) keep: f32,
    pub(super) step: f32,
    /// The amount that prox subtracts from c before it clips at 0.
    weight: f32,
}

enum Gram {
    /// `[block][column][row of the block]`.
    Vectors(Vec<f32>),
    Tiles(Weights),
}

impl Gram {
    /// G in memory order, from its elements row by row.
    fn new(numbers: &[f32], all: usize, limits: &SolveLimits) -> Self {
        if tiles::present() && tiles::pay(all) && limits.tolerance[0] >= LOOSE {
            let at = |row, column, _| row * all + column;
            return Self::Tiles(Weights::new(numbers, [all, all, 1], at));
        }
        let mut blocks = vec![0.0; all.div_ceil(ROWS) * ROWS * all];
        for (row, numbers) in numbers.chunks_exact(all).enumerate() {
            for (column, number) in numbers.iter().enumerate() {
                blocks[(row / ROWS * all + column) * ROWS + row % ROWS] = *number;
            }
        }
        Self::Vectors(blocks)
    }
}

impl Codes {
    pub(super) fn new(formula: &StepFormula, x: Inputs<'_>, limits: &SolveLimits) -> Option<Self> {
        let prox = match formula.prox? {
            Prox::NonNegative => 0.0,
            Prox::Sparse { weight } => weight,
            _ => return None,
        };
        if formula.kernel != Kernel::Gram || !formula.proximity || !formula.couplings.is_empty() {
            return None;
        }
        let dims = x.injections.iter().map(Tensor::dims);
        let (mut sizes, mut channels) = (Vec::new(), Vec::new());
        for [_, c, height, width] in dims {
            sizes.push([height, width]);
            channels.push(c);
        }
        let all: usize = channels.iter().sum();
        let [kernel] = x.kernels else { return None };
        if kernel.dims() != [all, all, 1, 1] || all == 0 || !formula.fits(&sizes) {
            return None;
        }
        let weights = Floats::new(kernel)?;
        let step = formula.step as f32;
        Some(Self {
            sizes,
            channels,
            gram: Gram::new(weights.elements(), all, limits),
            keep: (1.0 - formula.step * formula.quadratic) as f32,
            step,
            weight: prox as f32,
        })
    }

    pub(super) fn rows(&self) -> usize {
        self.channels.iter().sum()
    }

    fn pixels(&self) -> usize {
        self.sizes[0].iter().product()
    }

    /// Length of a row of memory.
    pub(super) fn stride(&self) -> usize {
        self.pixels().next_multiple_of(LANES)
    }

    /// Elements of a sample's state.
    pub(super) fn width(&self) -> usize {
        let areas = self.sizes.iter().map(|[h, w]| h * w);
        areas.zip(&self.channels).map(|(a, c)| a * c).sum()
    }

    fn grid(&self, branch: usize) -> Option<Grid> {
        let (fine, coarse) = (self.sizes[0], self.sizes[branch]);
        (fine != coarse).then_some(Grid { fine, coarse })
    }

    /// E of consecutive branches, written to rows of memory.
    pub(super) fn raise<'a>(&self, parts: impl Iterator<Item = &'a [f32]>, to: &mut [f32]) {
        let (pixels, stride) = (self.pixels(), self.stride());
        let mut rows = to.chunks_exact_mut(stride);
        for (branch, part) in parts.enumerate() {
            let area: usize = self.sizes[branch].iter().product();
            for plane in part.chunks_exact(area) {
                let row = rows.next().expect("a row for every channel");
                match self.grid(branch) {
                    None => row[..pixels].copy_from_slice(plane),
                    Some(grid) => grid.spread(grid.isometric(), plane, &mut row[..pixels]),
                }
                row[pixels..].fill(0.0);
            }
        }
    }

    /// E (c - weight).
    pub(super) fn raise_injections<'a>(
        &self,
        parts: impl Iterator<Item = &'a [f32]>,
        to: &mut [f32],
    ) {
        self.raise(parts, to);
        if self.weight == 0.0 {
            return;
        }
        let (pixels, stride) = (self.pixels(), self.stride());
        let mut rows = to.chunks_exact_mut(stride);
        for (branch, channels) in self.channels.iter().enumerate() {
            let scale = self.grid(branch).map_or(1.0, |grid| grid.isometric());
            for row in rows.by_ref().take(*channels) {
                for c in &mut row[..pixels] {
                    *c -= scale * self.weight;
                }
            }
        }
    }

    /// E' of rows of memory, written to consecutive branches.
    pub(super) fn lower(&self, from: &[f32], mut to: &mut [f32]) {
        let (pixels, stride) = (self.pixels(), self.stride());
        let mut rows = from.chunks_exact(stride);
        for (branch, channels) in self.channels.iter().enumerate() {
            let area: usize = self.sizes[branch].iter().product();
            for _ in 0..*channels {
                let row = rows.next().expect("a row for every channel");
                let (plane, rest) = std::mem::take(&mut to).split_at_mut(area);
                to = rest;
                match self.grid(branch) {
                    None => plane.copy_from_slice(&row[..pixels]),
                    Some(grid) => grid.pool(grid.isometric(), &row[..pixels], plane),
                }
            }
        }
    }

    /// E E' G y, written to rows of memory.
    pub(super) fn product(&self, y: &[f32], cell: &mut Vec<f32>, to: &mut [f32]) {
        let (rows, stride, pixels) = (self.rows(), self.stride(), self.pixels());
        match &self.gram {
            Gram::Tiles(gram) => gram.multiply(stride, y, to),
            Gram::Vectors(gram) => Arch::new().dispatch(Product {
                gram,
                rows,
                stride,
                from: y,
                to: &mut *to,
            }),
        }
        let mut first = 0;
        for (branch, channels) in self.channels.iter().enumerate() {
            if let Some(grid) = self.grid(branch) {
                let own = &mut to[first * stride..(first + channels) * stride];
                let area: usize = self.sizes[branch].iter().product();
                let cell = room(cell, area);
                for row in own.chunks_exact_mut(stride) {
                    grid.pool(grid.isometric(), &row[..pixels], cell);
                    grid.spread(grid.isometric(), cell, &mut row[..pixels]);
                }
            }
            first += channels;
        }
    }

    /// The branches of a packed sample.
    pub(super) fn branches<'a>(&self, mut sample: &'a [f32]) -> impl Iterator<Item = &'a [f32]> {
        let lengths: Vec<usize> = self
            .sizes
            .iter()
            .zip(&self.channels)
            .map(|([h, w], c)| h * w * c)
            .collect();
        lengths.into_iter().map(move |length| {
            let (part, rest) = sample.split_at(length);
            sample = rest;
            part
        })
    }
}

/// `to` = G `from`.
struct Product<'a> {
    gram: &'a [f32],
    rows: usize,
    stride: usize,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            gram,
            rows,
            stride,
            from,
            to,
        } = self;
        let wide = 2 * S::F32_LANES;
        let mut start = 0;
        while start < stride {
            let two = start + wide <= stride;
            let blocks = gram.chunks_exact(rows * ROWS);
            for (weights, to) in blocks.zip(to.chunks_mut(ROWS * stride)) {
                if two {
                    block::<S, 2>(simd, weights, from, to, stride, start);
                } else {
                    block::<S, 1>(simd, weights, from, to, stride, start);
                }
            }
            start += if two { wide } else { S::F32_LANES };
        }
    }
}

/// A block of rows and of vectors of pixels.
#[inline(always)]
fn block<S: Simd, const VECTORS: usize>(
    simd: S,
    weights: &[f32],
    from: &[f32],
    to: &mut [f32],
    stride: usize,
    start: usize,
) {
    let mut sums = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let pixels = VECTORS * S::F32_LANES;
    let columns = weights.as_chunks::<ROWS>().0;
    for (weights, from) in columns.iter().zip(from.chunks_exact(stride)) {
        let x = S::as_simd_f32s(&from[start..start + pixels]).0;
        let x = &x.as_chunks::<VECTORS>().0[0];
        for (sums, weight) in sums.iter_mut().zip(weights) {
            let weight = simd.splat_f32s(*weight);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = simd.mul_add_e_f32s(weight, *x, *sum);
            }
        }
    }
    for (to, sums) in to.chunks_exact_mut(stride).zip(sums) {
        let to = S::as_mut_simd_f32s(&mut to[start..start + pixels]).0;
        to.copy_from_slice(&sums);
    }
}
