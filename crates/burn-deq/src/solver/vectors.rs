//! Sums over vectors in the host's memory, with its vector instructions.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Element, Tensor, TensorData};
use pulp::bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Elements that are worked on at once: some vectors of them fit the first-level cache.
pub(super) const BLOCK: usize = 1024;
/// Elements read or written from which on samples are spread over the cores.
const WORTH_SPREADING: usize = 1 << 21;

/// Whether to spread samples, of so many elements altogether, over the cores: for little work it
/// takes longer to wake other threads and to move the data into their caches.
pub(super) fn worth_spreading(samples: usize, elements: usize) -> bool {
    samples > 1 && elements >= WORTH_SPREADING && rayon::current_num_threads() > 1
}

/// A tensor whose elements the host can read in place.
pub(super) struct Floats(FloatTensor<Flex>);

impl Floats {
    pub(super) fn new(x: &Tensor<2>) -> Option<Self> {
        if x.is_autodiff() || !matches!(x.dtype(), DType::F32 | DType::F64) {
            return None;
        }
        let x = x.clone().try_into_primitive::<Flex>().ok()?;
        Some(Self(if x.is_contiguous() {
            x
        } else {
            x.to_contiguous()
        }))
    }

    pub(super) fn expected(x: &Tensor<2>) -> Self {
        Self::new(x).expect("a ring is used with tensors like the one it was made for")
    }

    pub(super) fn elements<T: Real>(&self) -> &[T] {
        self.0
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }
}

pub(super) trait Real:
    Element
    + Pod
    + Default
    + PartialOrd
    + Send
    + Sync
    + std::ops::Add<Output = Self>
    + std::ops::AddAssign
    + std::ops::Div<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::Sub<Output = Self>
{
    /// Inner products of a with each x, all of one length.
    fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N];
}

/// Written out, for the compiler turns sums into vectors only where there is one of them.
macro_rules! real {
    ($real:ty, $vector:ident, $as_vectors:ident, $splat:ident, $mul_add:ident, $add:ident, $sum:ident) => {
        impl Real for $real {
            #[inline(always)]
            fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N] {
                // Two sums each, for an addition has to wait for the one before.
                let mut sums = [[simd.$splat(0.0); 2]; N];
                let (vectors, rest) = S::$as_vectors(a);
                let mut x_vectors: [&[S::$vector]; N] = [&[]; N];
                for (vectors, x) in x_vectors.iter_mut().zip(x) {
                    *vectors = S::$as_vectors(x).0;
                }
                let (pairs, last) = vectors.as_chunks::<2>();
                for (k, pair) in pairs.iter().enumerate() {
                    for (sums, x) in sums.iter_mut().zip(x_vectors) {
                        let x = &x[2 * k..2 * k + 2];
                        sums[0] = simd.$mul_add(pair[0], x[0], sums[0]);
                        sums[1] = simd.$mul_add(pair[1], x[1], sums[1]);
                    }
                }
                if let [a] = last {
                    for (sums, x) in sums.iter_mut().zip(x_vectors) {
                        sums[0] = simd.$mul_add(*a, x[vectors.len() - 1], sums[0]);
                    }
                }
                let mut products = [0.0; N];
                let start = a.len() - rest.len();
                for ((product, sums), x) in products.iter_mut().zip(sums).zip(x) {
                    *product = simd.$sum(simd.$add(sums[0], sums[1]));
                    for (a, x) in rest.iter().zip(&x[start..]) {
                        *product += a * x;
                    }
                }
                products
            }
        }
    };
}

real!(
    f32,
    f32s,
    as_simd_f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    reduce_sum_f32s
);
real!(
    f64,
    f64s,
    as_simd_f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    reduce_sum_f64s
);

/// Inner products of each x with each slot, sample by sample: `[batch, x * m]`, zero for slots that
/// are not there yet. Slots and x are `[batch, width]`.
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
        // Few tasks: what a sample needs is soon done.
        let least = batch.div_ceil(2 * rayon::current_num_threads());
        let parts = products.par_chunks_exact_mut(part).with_min_len(least);
        parts.enumerate().for_each(each);
    } else {
        products.chunks_exact_mut(part).enumerate().for_each(each);
    }
    products
}

/// Inner product of each sample, `[batch, 1]`, in one pass over the memory.
pub(super) fn inner(x: &Tensor<2>, y: &Tensor<2>) -> Option<Tensor<2>> {
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
    let data = TensorData::new(products, [dims[0], 1]);
    Tensor::from_data(data, (&like.device(), T::dtype()))
}

// Structs instead of closures: what a closure does would not be compiled for the instruction set
// that is dispatched to.

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

/// Appends `start`, or zeros, plus the weighted slots.
pub(super) struct Combine<'a, T> {
    pub(super) start: Option<&'a [T]>,
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

/// In blocks that are summed up in the cache.
#[inline(always)]
fn combine<T: Real>(work: Combine<'_, T>) {
    let Combine {
        start,
        used,
        width,
        sum: out,
    } = work;
    let mut buffer = [T::default(); BLOCK];
    for first in (0..width).step_by(BLOCK) {
        let block = first..width.min(first + BLOCK);
        let sum = &mut buffer[..block.len()];
        match start {
            Some(x) => sum.copy_from_slice(&x[block.clone()]),
            None => sum.fill(T::default()),
        }
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
