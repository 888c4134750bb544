//! Sums over vectors in the host's memory, with the CPU's vector instructions.

mod columns;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Element, Tensor, TensorData};
use pulp::bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

pub(super) use columns::{join, split};

/// Elements per block: some vectors of this length fit the first-level cache.
pub(super) const BLOCK: usize = 1024;
/// Elements read or written above which samples are spread over the cores.
const WORTH_SPREADING: usize = 1 << 21;

/// Whether to spread samples over the cores; `elements` is their total. For little work, waking
/// other threads and moving the data into their caches takes longer.
pub(super) fn worth_spreading(samples: usize, elements: usize) -> bool {
    samples > 1 && elements >= WORTH_SPREADING && rayon::current_num_threads() > 1
}

/// The tensor with its elements in row-major order. A tensor already in this order is not copied.
fn contiguous(x: FloatTensor<Flex>) -> FloatTensor<Flex> {
    if x.is_contiguous() {
        x
    } else {
        x.to_contiguous()
    }
}

/// A tensor whose elements the host can read in place.
pub(super) struct Floats(FloatTensor<Flex>);

impl Floats {
    pub(super) fn new(x: &Tensor<2>) -> Option<Self> {
        if x.is_autodiff() || !matches!(x.dtype(), DType::F32 | DType::F64) {
            return None;
        }
        let x = x.clone().try_into_primitive::<Flex>().ok()?;
        Some(Self(contiguous(x)))
    }

    pub(super) fn expected(x: &Tensor<2>) -> Self {
        Self::new(x).expect("the host has read such tensors before")
    }

    pub(super) fn elements<T: Real>(&self) -> &[T] {
        self.0
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }
}

/// The elements of a tensor that [`Floats`] can read, in its own memory if that is not shared.
pub(super) fn owned<T: Real>(x: Tensor<2>) -> Vec<T> {
    let Ok(x) = x.try_into_primitive::<Flex>() else {
        unreachable!("the host can read the tensor")
    };
    let x = contiguous(x);
    if x.is_unique() {
        let data = x.into_data().try_into_vec();
        return data.expect("elements of this type");
    }
    Floats(x).elements().to_vec()
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
    + std::ops::Sub<Output = Self>
{
    /// Inner products of a with each x, all of equal length.
    fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N];

    /// |f - z|^2 and |f|^2.
    fn residual<S: Simd>(simd: S, z: &[Self], f: &[Self]) -> [Self; 2];

    /// Inner products of differences between neighbouring points. A point is a pair of z and f. The
    /// points are `first`, then `others`, all of equal length. With r = f - z, let r', z' and f' be
    /// the differences of the two `newest` points. Computes the products of dr with r' and r. If
    /// `ALL` is set, also those of dr with z', and of df with r' and r.
    fn differences<S: Simd, const D: usize, const ALL: bool>(
        simd: S,
        newest: [[&[Self]; 2]; 2],
        first: [&[Self]; 2],
        others: [[&[Self]; 2]; D],
    ) -> [[Self; 5]; D];

    /// x minus the weighted differences of pairs, all of equal length.
    fn subtract<S: Simd, const P: usize>(
        simd: S,
        weights: [Self; P],
        pairs: [[&[Self]; 2]; P],
        x: &mut [Self],
    );
}

#[inline(always)]
fn both<'a, T, V>([a, b]: [&'a [T]; 2], of: impl Fn(&'a [T]) -> &'a [V]) -> [&'a [V]; 2] {
    [of(a), of(b)]
}

/// Written out, because the compiler vectorises a sum only if a loop has just one.
macro_rules! real {
    (
        $real:ty, $vector:ident, $lanes:ident, $as_vectors:ident, $as_vectors_mut:ident, $partial:ident,
        $store:ident, $splat:ident, $mul_add:ident, $add:ident, $sub:ident, $sum:ident
    ) => {
        impl Real for $real {
            #[inline(always)]
            fn dot<S: Simd, const N: usize>(simd: S, a: &[Self], x: [&[Self]; N]) -> [Self; N] {
                // Two sums each, because an addition must wait for the previous one.
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

            #[inline(always)]
            fn residual<S: Simd>(simd: S, z: &[Self], f: &[Self]) -> [Self; 2] {
                let mut sums = [simd.$splat(0.0); 2];
                let ((z, z_rest), (f, f_rest)) = (S::$as_vectors(z), S::$as_vectors(f));
                for (z, f) in z.iter().zip(f) {
                    let r = simd.$sub(*f, *z);
                    sums[0] = simd.$mul_add(r, r, sums[0]);
                    sums[1] = simd.$mul_add(*f, *f, sums[1]);
                }
                let (z, f) = (simd.$partial(z_rest), simd.$partial(f_rest));
                let r = simd.$sub(f, z);
                sums[0] = simd.$mul_add(r, r, sums[0]);
                sums[1] = simd.$mul_add(f, f, sums[1]);
                [simd.$sum(sums[0]), simd.$sum(sums[1])]
            }

            #[inline(always)]
            fn differences<S: Simd, const D: usize, const ALL: bool>(
                simd: S,
                newest: [[&[Self]; 2]; 2],
                first: [&[Self]; 2],
                others: [[&[Self]; 2]; D],
            ) -> [[Self; 5]; D] {
                let mut sums = [[simd.$splat(0.0); 5]; D];
                // Vectors of z and f of the two newest points, the first and the others.
                macro_rules! add {
                    ($newest:ident, $first:ident, $others:ident, $of:ident, $vectors:literal) => {{
                        let [[z1, f1], [z0, f0]] = $newest;
                        let [z1, f1, z0, f0] = [$of(z1), $of(f1), $of(z0), $of(f0)];
                        let (mut later, first_z) = ($of($first[1]), $of($first[0]));
                        let zero = [simd.$splat(0.0); $vectors];
                        let [mut r, mut new_dr, mut new_dz, mut later_r] = [zero; 4];
                        for v in 0..$vectors {
                            r[v] = simd.$sub(f1[v], z1[v]);
                            new_dr[v] = simd.$sub(r[v], simd.$sub(f0[v], z0[v]));
                            new_dz[v] = simd.$sub(simd.$sub(f1[v], f0[v]), new_dr[v]);
                            later_r[v] = simd.$sub(later[v], first_z[v]);
                        }
                        for (sums, [z, f]) in sums.iter_mut().zip($others) {
                            let (z, f) = ($of(z), $of(f));
                            for v in 0..$vectors {
                                let r0 = simd.$sub(f[v], z[v]);
                                let dr = simd.$sub(later_r[v], r0);
                                sums[0] = simd.$mul_add(dr, new_dr[v], sums[0]);
                                sums[1] = simd.$mul_add(dr, r[v], sums[1]);
                                if ALL {
                                    let df = simd.$sub(later[v], f[v]);
                                    sums[2] = simd.$mul_add(dr, new_dz[v], sums[2]);
                                    sums[3] = simd.$mul_add(df, new_dr[v], sums[3]);
                                    sums[4] = simd.$mul_add(df, r[v], sums[4]);
                                }
                                later_r[v] = r0;
                            }
                            later = f;
                        }
                    }};
                }
                // Two vectors at once halve the number of length checks.
                let lines = |pair| both(pair, |x| S::$as_vectors(x).0.as_chunks::<2>().0);
                let (newest_lines, first_line) = (newest.map(lines), lines(first));
                let other_lines = others.map(lines);
                let pairs = first_line[0].len();
                for k in 0..pairs {
                    let of = |x: &[[S::$vector; 2]]| x[k];
                    add!(newest_lines, first_line, other_lines, of, 2);
                }
                for k in (2 * pairs * S::$lanes..first[0].len()).step_by(S::$lanes) {
                    // Padded with zeros, which add nothing.
                    let of = |x: &[Self]| [simd.$partial(&x[k..])];
                    add!(newest, first, others, of, 1);
                }
                let mut products = [[0.0; 5]; D];
                let used = if ALL { 5 } else { 2 };
                for (products, sums) in products.iter_mut().zip(sums) {
                    for (product, sum) in products.iter_mut().zip(sums).take(used) {
                        *product = simd.$sum(sum);
                    }
                }
                products
            }

            #[inline(always)]
            fn subtract<S: Simd, const P: usize>(
                simd: S,
                weights: [Self; P],
                pairs: [[&[Self]; 2]; P],
                x: &mut [Self],
            ) {
                let mut negative = [simd.$splat(0.0); P];
                for (negative, weight) in negative.iter_mut().zip(weights) {
                    *negative = simd.$splat(-weight);
                }
                let lines = pairs.map(|p| both(p, |x| S::$as_vectors(x).0.as_chunks::<2>().0));
                let whole = 2 * S::$lanes * (x.len() / (2 * S::$lanes));
                let (vectors, rest) = x.split_at_mut(whole);
                let vectors = S::$as_vectors_mut(vectors).0.as_chunks_mut::<2>().0;
                for (k, x) in vectors.iter_mut().enumerate() {
                    for (weight, [a, b]) in negative.iter().zip(lines) {
                        for (x, (a, b)) in x.iter_mut().zip(a[k].into_iter().zip(b[k])) {
                            *x = simd.$mul_add(*weight, simd.$sub(a, b), *x);
                        }
                    }
                }
                for (k, rest) in rest.chunks_mut(S::$lanes).enumerate() {
                    let of = |x: &[Self]| simd.$partial(&x[whole + k * S::$lanes..]);
                    let mut x = simd.$partial(rest);
                    for (weight, [a, b]) in negative.iter().zip(pairs) {
                        x = simd.$mul_add(*weight, simd.$sub(of(a), of(b)), x);
                    }
                    simd.$store(rest, x);
                }
            }
        }
    };
}

real!(
    f32,
    f32s,
    F32_LANES,
    as_simd_f32s,
    as_mut_simd_f32s,
    partial_load_f32s,
    partial_store_f32s,
    splat_f32s,
    mul_add_e_f32s,
    add_f32s,
    sub_f32s,
    reduce_sum_f32s
);
real!(
    f64,
    f64s,
    F64_LANES,
    as_simd_f64s,
    as_mut_simd_f64s,
    partial_load_f64s,
    partial_store_f64s,
    splat_f64s,
    mul_add_e_f64s,
    add_f64s,
    sub_f64s,
    reduce_sum_f64s
);

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
