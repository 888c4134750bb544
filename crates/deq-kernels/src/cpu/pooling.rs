//! Means over the cells of a coarser grid, and repetition on a finer one.

use burn::tensor::Tensor;
use pulp::{Arch, Simd, WithSimd};

use super::memory::{Floats, produce, tensor};
use crate::gradient::custom_gradient;

/// Means over cells of equal size, with their gradient. `None` if there is no fast form.
pub(crate) fn mean_pool(x: &Tensor<4>, [height, width]: [usize; 2]) -> Option<Tensor<4>> {
    let [batch, channels, h, w] = x.dims();
    let whole = |n: usize, cells: usize| cells > 0 && n > 0 && n.is_multiple_of(cells);
    if !whole(h, height) || !whole(w, width) || batch * channels == 0 {
        return None;
    }
    let grid = Grid {
        fine: [h, w],
        coarse: [height, width],
    };
    let mean = grid.mean();
    grid.resample(x, [Way::Pool(mean), Way::Spread(mean)])
}

/// Repeats pixels over cells, with their gradient. `None` if there is no fast form.
pub(crate) fn repeat(x: &Tensor<4>, [vertical, horizontal]: [usize; 2]) -> Option<Tensor<4>> {
    let [batch, channels, h, w] = x.dims();
    if batch * channels * h * w * vertical * horizontal == 0 {
        return None;
    }
    let grid = Grid {
        fine: [vertical * h, horizontal * w],
        coarse: [h, w],
    };
    grid.resample(x, [Way::Spread(1.0), Way::Pool(1.0)])
}

/// From one of two grids to the other, with a factor.
#[derive(Clone, Copy)]
enum Way {
    Pool(f32),
    Spread(f32),
}

/// Heights and widths of two nested grids.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) fine: [usize; 2],
    pub(super) coarse: [usize; 2],
}

impl Grid {
    /// Resamples pictures the first way, with the second as its transpose.
    fn resample(self, x: &Tensor<4>, [way, back]: [Way; 2]) -> Option<Tensor<4>> {
        let from = Floats::new(&x.clone().without_autodiff())?;
        let y = self.resampled(&from, way, x);
        let none = || Tensor::<1>::zeros([1], &y.device());
        let inputs = (x.clone(), none(), none());
        let pullback = move |g: Tensor<4>, [wanted, ..]: [bool; 3]| {
            let gradient = Floats::new(&g).expect("the gradient is on the output's backend");
            let x = wanted.then(|| self.resampled(&gradient, back, &g));
            (x, None, None)
        };
        Some(custom_gradient(inputs, y, pullback))
    }

    fn resampled(self, from: &Floats, way: Way, like: &Tensor<4>) -> Tensor<4> {
        let [batch, channels, ..] = from.dims;
        let [height, width] = match way {
            Way::Pool(_) => self.coarse,
            Way::Spread(_) => self.fine,
        };
        let sample = channels * height * width;
        let ([to], _) = produce(batch, sample, |n, [to]| {
            let (from, to) = (from.of_sample(n), to.zeros(sample));
            match way {
                Way::Pool(scale) => self.pool(scale, from, to),
                Way::Spread(scale) => self.spread(scale, from, to),
            }
        });
        tensor(to, [batch, channels, height, width], like)
    }

    /// Height and width of a cell.
    fn cell(&self) -> [usize; 2] {
        [0, 1].map(|d| self.fine[d] / self.coarse[d])
    }

    /// The factor of a mean.
    fn mean(&self) -> f32 {
        1.0 / self.cell().iter().product::<usize>() as f32
    }

    /// The factor that gives pooling and spreading norm 1.
    pub(super) fn isometric(&self) -> f32 {
        self.mean().sqrt()
    }

    /// The sums over cells times `scale`, for planes.
    pub(super) fn pool(self, scale: f32, from: &[f32], to: &mut [f32]) {
        let grid = self;
        Arch::new().dispatch(Pool {
            grid,
            scale,
            from,
            to,
        });
    }

    /// The transpose of [`pool`](Self::pool).
    pub(super) fn spread(self, scale: f32, from: &[f32], to: &mut [f32]) {
        let grid = self;
        Arch::new().dispatch(Spread {
            grid,
            scale,
            from,
            to,
        });
    }
}

/// Two lines of memory for sums over neighbours and their transpose.
///
/// The compiler vectorises doubling and halving, but not cells of other sizes.
#[derive(Default)]
pub(super) struct Lines {
    /// Input and output of a task.
    pub(super) line: Vec<f32>,
    other: Vec<f32>,
}

impl Lines {
    /// Replaces the line with the sums of `cell` neighbours.
    #[inline(always)]
    pub(super) fn fold(&mut self, mut cell: usize) {
        let mut length = self.line.len();
        self.other.resize(length, 0.0);
        while cell.is_multiple_of(2) {
            length /= 2;
            let pairs = self.line.as_chunks::<2>().0;
            for (to, pair) in self.other[..length].iter_mut().zip(pairs) {
                *to = pair[0] + pair[1];
            }
            std::mem::swap(&mut self.line, &mut self.other);
            cell /= 2;
        }
        if cell > 1 {
            length /= cell;
            let cells = self.line.chunks_exact(cell);
            for (to, cell) in self.other[..length].iter_mut().zip(cells) {
                *to = cell.iter().sum();
            }
            std::mem::swap(&mut self.line, &mut self.other);
        }
        self.line.truncate(length);
    }

    /// Repeats every number of the line `cell` times.
    #[inline(always)]
    pub(super) fn unfold(&mut self, mut cell: usize) {
        while cell.is_multiple_of(2) {
            self.other.resize(2 * self.line.len(), 0.0);
            let pairs = self.other.as_chunks_mut::<2>().0;
            for (pair, from) in pairs.iter_mut().zip(&self.line) {
                *pair = [*from; 2];
            }
            std::mem::swap(&mut self.line, &mut self.other);
            cell /= 2;
        }
        if cell > 1 {
            self.other.resize(cell * self.line.len(), 0.0);
            for (cell, from) in self.other.chunks_exact_mut(cell).zip(&self.line) {
                cell.fill(*from);
            }
            std::mem::swap(&mut self.line, &mut self.other);
        }
    }

    /// The sum of rows of this width.
    #[inline(always)]
    pub(super) fn add_rows(&mut self, rows: &[f32], width: usize) {
        let (first, rest) = rows.split_at(width);
        self.line.clear();
        self.line.extend_from_slice(first);
        for row in rest.chunks_exact(width) {
            for (sum, x) in self.line.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

struct Pool<'a> {
    grid: Grid,
    scale: f32,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Pool<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            grid,
            scale,
            from,
            to,
        } = self;
        let ([_, w], [_, width]) = (grid.fine, grid.coarse);
        let [sy, sx] = grid.cell();
        let mut lines = Lines::default();
        // Rows of the coarser grid, channel by channel.
        for (band, to) in from.chunks_exact(sy * w).zip(to.chunks_exact_mut(width)) {
            lines.add_rows(band, w);
            lines.fold(sx);
            for (to, sum) in to.iter_mut().zip(&lines.line) {
                *to = sum * scale;
            }
        }
    }
}

/// The transpose of [`Pool`].
struct Spread<'a> {
    grid: Grid,
    scale: f32,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl WithSimd for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            grid,
            scale,
            from,
            to,
        } = self;
        let ([_, w], [_, width]) = (grid.fine, grid.coarse);
        let [sy, sx] = grid.cell();
        let mut lines = Lines::default();
        for (band, from) in to.chunks_exact_mut(sy * w).zip(from.chunks_exact(width)) {
            lines.line.clear();
            lines.line.extend(from.iter().map(|x| x * scale));
            lines.unfold(sx);
            for row in band.chunks_exact_mut(w) {
                row.copy_from_slice(&lines.line);
            }
        }
    }
}
