//! A history in the host's memory: it stores points instead of differences, so only handles are
//! written.
//!
//! A step costs as much as reading the history. All products of a sample are computed in one pass,
//! and so is its next iterate.

use std::collections::VecDeque;
use std::ops::Range;

use burn::tensor::{Bool, DType, ElementConversion, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::floats::{Floats, tensor, worth_spreading};
use super::real::Real;
use crate::vectors::Rows;
use crate::vectors::store::{History, HistoryShape, Numbers, Seen};

/// Elements per partial sum. More would cost accuracy.
const BLOCK: usize = 4096;

/// A history for points like (z, f), if the host can read them.
pub(crate) fn history(
    shape: HistoryShape,
    z: &Tensor<2>,
    f: &Tensor<2>,
) -> Option<Box<dyn History>> {
    Point::new([z.clone(), f.clone()])?;
    let (points, seen) = (VecDeque::new(), 0);
    Some(Box::new(HostHistory {
        shape,
        points,
        seen,
    }))
}

struct HostHistory {
    shape: HistoryShape,
    /// Newest first, at most one more than the number of differences.
    points: VecDeque<Point>,
    /// Points seen so far.
    seen: usize,
}

/// z and f(z), `[batch, n]` each.
struct Point {
    tensors: [Tensor<2>; 2],
    floats: [Floats; 2],
}

impl Point {
    fn new(tensors: [Tensor<2>; 2]) -> Option<Self> {
        let [z, f] = &tensors;
        if z.dtype() != f.dtype() {
            return None;
        }
        let floats = [Floats::new(z)?, Floats::new(f)?];
        Some(Self { tensors, floats })
    }

    fn expected(tensors: [Tensor<2>; 2]) -> Self {
        Self::new(tensors).expect("all tensors of a history are of one kind")
    }
}

impl HostHistory {
    /// z and f of all samples, newest first.
    fn elements<T: Real>(&self) -> Vec<[&[T]; 2]> {
        let points = self.points.iter();
        points
            .map(|p| p.floats.each_ref().map(Floats::elements))
            .collect()
    }

    /// The slot of the difference between a point of this age and the one before.
    fn slot(&self, age: usize) -> usize {
        let m = self.shape.slots;
        (self.shape.slot(self.seen) + m - age) % m
    }

    /// The squares and products of all samples.
    fn look<T: Real>(&self) -> Seen {
        let f = &self.points[0].tensors[1];
        let ([batch, width], m) = (f.dims(), self.shape.slots);
        let (points, columns) = (self.elements::<T>(), self.shape.columns());
        let each = |sample: usize, squares: &mut [T], numbers: &mut [f64]| {
            let row = sample * width..(sample + 1) * width;
            let points: Vec<[&[T]; 2]> = points.iter().map(|p| part(p, &row)).collect();
            let (norms, products) = numbers.split_at_mut(2);
            Arch::new().dispatch(Look {
                points: &points,
                all: self.shape.secant,
                squares: &mut *squares,
                add: |age: usize, found: &[T]| {
                    for (column, product) in found.iter().enumerate().take(columns) {
                        products[column * m + self.slot(age)] += product.elem::<f64>();
                    }
                },
            });
            for (norm, square) in norms.iter_mut().zip(squares) {
                *norm = square.elem();
            }
        };
        // There is no difference at the first point.
        let stride = 2 + if points.len() > 1 { columns * m } else { 0 };
        let mut squares = vec![T::default(); 2 * batch];
        let mut numbers = vec![0.0; stride * batch];
        if worth_spreading(batch, batch * width * (2 * points.len() + 1)) {
            let least = batch.div_ceil(2 * rayon::current_num_threads());
            squares
                .par_chunks_exact_mut(2)
                .zip(numbers.par_chunks_exact_mut(stride))
                .with_min_len(least)
                .enumerate()
                .for_each(|(i, (squares, numbers))| each(i, squares, numbers));
        } else {
            let numbers = numbers.chunks_exact_mut(stride);
            let samples = squares.chunks_exact_mut(2).zip(numbers).enumerate();
            samples.for_each(|(i, (squares, numbers))| each(i, squares, numbers));
        }
        Seen {
            residual: None,
            squares: tensor(squares, 2, f),
            products: Some(Numbers::Host(numbers)),
        }
    }

    /// The next iterate with these weights, m for each sample. If there are none, all weights are
    /// zero.
    fn combine<T: Real>(&self, gamma: &[f64]) -> Tensor<2> {
        let newest = &self.points[0].tensors[1];
        let [batch, width] = newest.dims();
        let f = self.points.iter().map(|p| p.floats[1].elements());
        let f: Vec<&[T]> = f.collect();
        let damped = self.shape.damping - 1.0;
        let z: Vec<&[T]> = match damped {
            0.0 => Vec::new(),
            _ => self.points.iter().map(|p| p.floats[0].elements()).collect(),
        };
        let each = |sample: usize, next: &mut Vec<T>| {
            let row = sample * width..(sample + 1) * width;
            let (f, z) = (|k: usize| &f[k][row.clone()], |k: usize| &z[k][row.clone()]);
            let mut used = Vec::with_capacity(3 * self.points.len());
            if damped != 0.0 {
                used.push(((-damped).elem(), [f(0), z(0)]));
            }
            let m = self.shape.slots;
            let gamma = gamma.get(sample * m..(sample + 1) * m).unwrap_or(&[]);
            for k in 1..self.points.len() {
                let gamma = gamma.get(self.slot(k - 1)).copied().unwrap_or(0.0);
                // Unused differences may hold NaN.
                if gamma == 0.0 {
                    continue;
                }
                used.push((gamma.elem(), [f(k - 1), f(k)]));
                if damped != 0.0 {
                    used.push(((gamma * damped).elem(), [f(k - 1), z(k - 1)]));
                    used.push(((-gamma * damped).elem(), [f(k), z(k)]));
                }
            }
            let start = next.len();
            next.extend_from_slice(f(0));
            Arch::new().dispatch(Subtract {
                used: &used,
                x: &mut next[start..],
            });
        };
        let next = if worth_spreading(batch, batch * width * (2 * f.len() + 1)) {
            let least = batch.div_ceil(2 * rayon::current_num_threads());
            let parts = (0..batch).into_par_iter().with_min_len(least).map(|i| {
                let mut next = Vec::with_capacity(width);
                each(i, &mut next);
                next
            });
            parts.collect::<Vec<_>>().concat()
        } else {
            let mut next = Vec::with_capacity(batch * width);
            (0..batch).for_each(|i| each(i, &mut next));
            next
        };
        tensor(next, width, newest)
    }
}

impl History for HostHistory {
    fn observe(&mut self, z: &Tensor<2>, f: &Tensor<2>) -> Seen {
        self.points.truncate(self.shape.slots);
        self.points
            .push_front(Point::expected([z.clone(), f.clone()]));
        self.seen += 1;
        match f.dtype() {
            DType::F64 => self.look::<f64>(),
            _ => self.look::<f32>(),
        }
    }

    fn next(&mut self, gamma: Option<Numbers>, back: Option<Tensor<2, Bool>>) -> Tensor<2> {
        if let (Some(rows), Some(before)) = (back, self.points.get(1)) {
            let [z0, f0] = before.tensors.clone();
            let [z, f] = self.points[0].tensors.clone();
            let rows = rows.expand(f.dims());
            let point = [z.mask_where(rows.clone(), z0), f.mask_where(rows, f0)];
            self.points[0] = Point::expected(point);
        }
        let f = &self.points[0].tensors[1];
        let gamma = match gamma {
            // A plain step needs no history: its result is f.
            None if self.shape.damping == 1.0 => return f.clone(),
            None => Vec::new(),
            Some(Numbers::Host(gamma)) => gamma,
            Some(Numbers::Device(gamma)) => gamma.into_data().iter::<f64>().collect(),
        };
        match f.dtype() {
            DType::F64 => self.combine::<f64>(&gamma),
            _ => self.combine::<f32>(&gamma),
        }
    }

    fn keep(&mut self, rows: &Rows) {
        for point in &mut self.points {
            let tensors = point.tensors.clone();
            *point = Point::expected(tensors.map(|t| rows.of(t)));
        }
    }
}

/// A range of z and f.
#[inline(always)]
fn part<'a, T>([z, f]: &[&'a [T]; 2], range: &Range<usize>) -> [&'a [T]; 2] {
    [&z[range.clone()], &f[range.clone()]]
}

// Structs, not closures: see `products`.

/// Norms and inner products of a sample.
struct Look<'a, T, F> {
    /// z and f, newest first.
    points: &'a [[&'a [T]; 2]],
    /// Whether to compute all five columns of products.
    all: bool,
    /// |f - z|^2 and |f|^2.
    squares: &'a mut [T],
    /// Receives the age of a difference and its inner products, column by column.
    add: F,
}

impl<T: Real, F: FnMut(usize, &[T])> WithSimd for Look<'_, T, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = self.points[0][0].len();
        for start in (0..width).step_by(BLOCK) {
            let block = start..width.min(start + BLOCK);
            let [z, f] = part(&self.points[0], &block);
            let [rr, ff] = T::residual(simd, z, f);
            self.squares[0] += rr;
            self.squares[1] += ff;
            let mut age = 0;
            while age + 1 < self.points.len() {
                // Several differences per pass read the newest point less often, while the sums fit
                // the registers.
                let left = self.points.len() - 1 - age;
                age += match (self.all, left) {
                    (false, 6..) if S::REGISTER_COUNT >= 32 => {
                        self.ages::<S, 6, false>(simd, age, &block)
                    }
                    (false, 3..) => self.ages::<S, 3, false>(simd, age, &block),
                    (false, _) => self.ages::<S, 1, false>(simd, age, &block),
                    (true, 3..) => self.ages::<S, 3, true>(simd, age, &block),
                    (true, _) => self.ages::<S, 1, true>(simd, age, &block),
                };
            }
        }
    }
}

impl<T: Real, F: FnMut(usize, &[T])> Look<'_, T, F> {
    /// The D differences from this age on; returns D.
    #[inline(always)]
    fn ages<S: Simd, const D: usize, const ALL: bool>(
        &mut self,
        simd: S,
        age: usize,
        block: &Range<usize>,
    ) -> usize {
        let at = |k: usize| part(&self.points[k], block);
        let others = std::array::from_fn(|k| at(age + 1 + k));
        let found = T::differences::<S, D, ALL>(simd, [at(0), at(1)], at(age), others);
        for (k, found) in found.iter().enumerate() {
            (self.add)(age + k, found);
        }
        D
    }
}

/// x minus the weighted differences of pairs.
struct Subtract<'a, T> {
    used: &'a [(T, [&'a [T]; 2])],
    x: &'a mut [T],
}

impl<T: Real> WithSimd for Subtract<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (sixes, rest) = self.used.as_chunks::<6>();
        for six in sixes {
            T::subtract(simd, six.map(|u| u.0), six.map(|u| u.1), self.x);
        }
        let (threes, rest) = rest.as_chunks::<3>();
        for three in threes {
            T::subtract(simd, three.map(|u| u.0), three.map(|u| u.1), self.x);
        }
        for (weight, pair) in rest {
            T::subtract(simd, [*weight], [*pair], self.x);
        }
    }
}
