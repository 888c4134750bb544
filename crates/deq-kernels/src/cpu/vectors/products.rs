//! Inner products and weighted sums, in one pass over the memory.

use burn::tensor::{DType, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::floats::{Floats, tensor, worth_spreading};
use super::real::{BLOCK, Real};

/// Inner products of each x with each slot, sample by sample: `[batch, x * m]`, zero for missing
/// slots. Slots and x are `[batch, width]`.
pub(super) fn products<T: Real>(
    [batch, width]: [usize; 2],
    slots: &[&[T]],
    x: &[&[T]],
    m: usize,
) -> Vec<T> {
    let columns = x.len() * m;
    let mut products = vec![T::default(); batch * columns];
    let each = |(sample, products): (usize, &mut [T])| {
        let row = sample * width..(sample + 1) * width;
        let x: Vec<&[T]> = x.iter().map(|x| &x[row.clone()]).collect();
        let slots: Vec<&[T]> = slots.iter().map(|s| &s[row.clone()]).collect();
        Arch::new().dispatch(Dots {
            slots: &slots,
            x: &x,
            products,
            m,
        });
    };
    let part = columns.max(1);
    if worth_spreading(batch, batch * width * (slots.len() + x.len())) {
        // Few tasks, because the work per sample is short.
        let least = batch.div_ceil(2 * rayon::current_num_threads());
        let parts = products.par_chunks_exact_mut(part).with_min_len(least);
        parts.enumerate().for_each(each);
    } else {
        products.chunks_exact_mut(part).enumerate().for_each(each);
    }
    products
}

/// Inner product of each sample, `[batch, 1]`, in one pass over the memory.
pub(crate) fn inner(x: &Tensor<2>, y: &Tensor<2>) -> Option<Tensor<2>> {
    if x.dims() != y.dims() || x.dtype() != y.dtype() || x.device() != y.device() {
        return None;
    }
    let [a, b] = [Floats::new(x)?, Floats::new(y)?];
    Some(match x.dtype() {
        DType::F64 => inner_of::<f64>(x, [&a, &b]),
        _ => inner_of::<f32>(x, [&a, &b]),
    })
}

fn inner_of<T: Real>(like: &Tensor<2>, [a, b]: [&Floats; 2]) -> Tensor<2> {
    let dims = like.dims();
    let products = products::<T>(dims, &[a.elements()], &[b.elements()], 1);
    tensor(products, 1, like)
}

// Structs instead of closures, because the body of a closure would not be compiled for the
// dispatched instruction set.

struct Dots<'a, T> {
    slots: &'a [&'a [T]],
    x: &'a [&'a [T]],
    products: &'a mut [T],
    m: usize,
}

impl<T: Real> WithSimd for Dots<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        dots(simd, self.slots, self.x, self.products, self.m);
    }
}

/// Appends the sum of the weighted slots.
pub(super) struct Combine<'a, T> {
    pub(super) used: &'a [(T, &'a [T])],
    pub(super) width: usize,
    pub(super) sum: &'a mut Vec<T>,
}

impl<T: Real> WithSimd for Combine<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        combine(self);
    }
}

/// Inner products of each x with each slot: `products[x * m + slot]`.
#[inline(always)]
fn dots<S: Simd, T: Real>(simd: S, slots: &[&[T]], x: &[&[T]], products: &mut [T], m: usize) {
    let width = x.first().map_or(0, |x| x.len());
    for start in (0..width).step_by(BLOCK) {
        let block = start..width.min(start + BLOCK);
        for (j, slot) in slots.iter().enumerate() {
            let slot = &slot[block.clone()];
            match x {
                [x, y] => {
                    let [first, second] =
                        T::dot(simd, slot, [&x[block.clone()], &y[block.clone()]]);
                    products[j] += first;
                    products[m + j] += second;
                }
                all => {
                    for (k, x) in all.iter().enumerate() {
                        let [product] = T::dot(simd, slot, [&x[block.clone()]]);
                        products[k * m + j] += product;
                    }
                }
            }
        }
    }
}

/// Works in blocks whose sums stay in the cache.
#[inline(always)]
fn combine<T: Real>(work: Combine<'_, T>) {
    let Combine {
        used,
        width,
        sum: out,
    } = work;
    let mut buffer = [T::default(); BLOCK];
    for first in (0..width).step_by(BLOCK) {
        let block = first..width.min(first + BLOCK);
        let sum = &mut buffer[..block.len()];
        sum.fill(T::default());
        // Two slots at once save half of the passes over the sum.
        let (pairs, rest) = used.as_chunks::<2>();
        for [(a, x), (b, y)] in pairs {
            let slots = x[block.clone()].iter().zip(&y[block.clone()]);
            for (sum, (x, y)) in sum.iter_mut().zip(slots) {
                *sum += *a * *x;
                *sum += *b * *y;
            }
        }
        for (a, x) in rest {
            for (sum, x) in sum.iter_mut().zip(&x[block.clone()]) {
                *sum += *a * *x;
            }
        }
        out.extend_from_slice(sum);
    }
}

/// |x - y|^2 of each sample, `[batch, 1]`, in one pass over the memory.
pub(crate) fn square_distance(x: &Tensor<2>, y: &Tensor<2>) -> Option<Tensor<2>> {
    if x.dims() != y.dims() || x.dtype() != y.dtype() {
        return None;
    }
    let pair = [Floats::new(y)?, Floats::new(x)?];
    Some(match x.dtype() {
        DType::F64 => square_distance_of::<f64>(x, &pair),
        _ => square_distance_of::<f32>(x, &pair),
    })
}

fn square_distance_of<T: Real>(like: &Tensor<2>, [a, b]: &[Floats; 2]) -> Tensor<2> {
    let width = like.dims()[1];
    let (a, b): (&[T], &[T]) = (a.elements(), b.elements());
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    let squares: Vec<T> = rows
        .map(|(a, b)| Arch::new().dispatch(Distance { a, b }))
        .collect();
    tensor(squares, 1, like)
}

struct Distance<'a, T> {
    a: &'a [T],
    b: &'a [T],
}

impl<T: Real> WithSimd for Distance<'_, T> {
    type Output = T;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> T {
        let mut sum = T::default();
        for (a, b) in self.a.chunks(BLOCK).zip(self.b.chunks(BLOCK)) {
            let [square, _] = T::residual(simd, a, b);
            sum += square;
        }
        sum
    }
}
