//! A [`Ring`](super::ring::Ring) in the host's memory, for plain tensors on Burn's CPU backend.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Bool, DType, Device, Element, Tensor, TensorData};
use pulp::bytemuck::Pod;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::map::Rows;

/// Elements that are worked on at once: some vectors of them fit the first-level cache.
pub(super) const BLOCK: usize = 1024;
/// Elements read or written from which on samples are spread over the cores.
const WORTH_SPREADING: usize = 1 << 21;

/// Whether to spread samples, of so many elements altogether, over the cores: for little work it
/// takes longer to wake other threads and to move the data into their caches.
pub(super) fn worth_spreading(samples: usize, elements: usize) -> bool {
    samples > 1 && elements >= WORTH_SPREADING && rayon::current_num_threads() > 1
}

pub(crate) struct HostRing {
    slots: Slots,
    capacity: usize,
    batch: usize,
    width: usize,
    device: Device,
}

/// Slots in use, `[batch, n]` each.
enum Slots {
    F32(Vec<Vec<f32>>),
    F64(Vec<Vec<f64>>),
}

/// Runs the same code for both types.
macro_rules! of_both {
    ($ring:expr, $slots:ident => $body:expr) => {
        match &$ring.slots {
            Slots::F32($slots) => $body,
            Slots::F64($slots) => $body,
        }
    };
    (mut $ring:expr, $slots:ident => $body:expr) => {
        match &mut $ring.slots {
            Slots::F32($slots) => $body,
            Slots::F64($slots) => $body,
        }
    };
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

    fn expected(x: &Tensor<2>) -> Self {
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

impl HostRing {
    /// For vectors like this one, if the host can read such.
    pub(crate) fn new(like: &Tensor<2>, capacity: usize) -> Option<Self> {
        Floats::new(like)?;
        let [batch, width] = like.dims();
        let slots = match like.dtype() {
            DType::F64 => Slots::F64(Vec::new()),
            _ => Slots::F32(Vec::new()),
        };
        Some(Self {
            slots,
            capacity,
            batch,
            width,
            device: like.device(),
        })
    }

    pub(crate) fn store(&mut self, slot: usize, x: Tensor<2>) {
        let x = Floats::expected(&x);
        of_both!(mut self, slots => {
            // Slots are filled in order.
            if slots.len() <= slot {
                slots.resize_with(slot + 1, Vec::new);
            }
            slots[slot].clear();
            slots[slot].extend_from_slice(x.elements());
        });
    }

    pub(crate) fn products(&self, x: &[&Tensor<2>]) -> Tensor<2> {
        let x: Vec<Floats> = x.iter().map(|x| Floats::expected(x)).collect();
        of_both!(self, slots => self.products_of(slots, &x))
    }

    fn products_of<T: Real>(&self, slots: &[Vec<T>], x: &[Floats]) -> Tensor<2> {
        let (width, m) = (self.width, self.capacity);
        let columns = x.len() * m;
        let x: Vec<&[T]> = x.iter().map(Floats::elements).collect();
        let mut products = vec![T::default(); self.batch * columns];
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
        self.side_by_side(&mut products, columns, each);
        self.tensor(products, columns)
    }

    pub(crate) fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let weights = Floats::expected(&weights);
        of_both!(self, slots => self.combination_of(None, slots, &weights, |w| w))
    }

    /// x less the combination with these weights.
    pub(crate) fn less(&self, x: Tensor<2>, weights: Tensor<2>) -> Tensor<2> {
        let (x, weights) = (Floats::expected(&x), Floats::expected(&weights));
        of_both!(self, slots => self.combination_of(Some(&x), slots, &weights, |w| -w))
    }

    fn combination_of<T: Real>(
        &self,
        start: Option<&Floats>,
        slots: &[Vec<T>],
        weights: &Floats,
        signed: impl Fn(T) -> T + Send + Sync,
    ) -> Tensor<2> {
        let (width, m) = (self.width, self.capacity);
        let weights: &[T] = weights.elements();
        let start = start.map(Floats::elements::<T>);
        let add = |sample: usize, sum: &mut Vec<T>| {
            let row = sample * width..(sample + 1) * width;
            let weights = &weights[sample * m..(sample + 1) * m];
            let used = weights.iter().zip(slots);
            let used = used.filter(|(weight, _)| **weight != T::default());
            let used: Vec<(T, &[T])> = used.map(|(w, s)| (signed(*w), &s[row.clone()])).collect();
            Arch::new().dispatch(Combine {
                start: start.map(|x| &x[row]),
                used: &used,
                width,
                sum,
            });
        };
        let sum = if worth_spreading(self.batch, self.batch * width * m) {
            let each = (0..self.batch).into_par_iter().map(|sample| {
                let mut sum = Vec::with_capacity(width);
                add(sample, &mut sum);
                sum
            });
            each.collect::<Vec<_>>().concat()
        } else {
            let mut sum = Vec::with_capacity(self.batch * width);
            (0..self.batch).for_each(|sample| add(sample, &mut sum));
            sum
        };
        self.tensor(sum, width)
    }

    pub(crate) fn clean(&mut self, slot: usize, rows: &Tensor<2, Bool>) {
        let rows: Vec<bool> = rows.clone().into_data().iter::<bool>().collect();
        let width = self.width;
        of_both!(mut self, slots => {
            for (sample, _) in rows.iter().enumerate().filter(|(_, wanted)| **wanted) {
                slots[slot][sample * width..(sample + 1) * width].fill(Default::default());
            }
        });
    }

    pub(crate) fn keep(&mut self, rows: &Rows) {
        let width = self.width;
        self.batch = rows.indices().len();
        of_both!(mut self, slots => {
            for slot in slots {
                // Rows ascend, so nothing is overwritten before it has moved.
                for (to, from) in rows.indices().iter().enumerate() {
                    slot.copy_within(from * width..(from + 1) * width, to * width);
                }
                slot.truncate(rows.indices().len() * width);
            }
        });
    }

    /// All that Anderson acceleration wants to know of f at z, in one pass over the memory: see
    /// [`Look`]. With z0 and f0 of the iterate before, the differences go to a slot of both rings.
    pub(crate) fn look(
        [df, dr]: [&mut Self; 2],
        [z, f]: [&Tensor<2>; 2],
        before: Option<[&Tensor<2>; 2]>,
        slot: usize,
    ) -> Look {
        let shape = Shape {
            batch: f.dims()[0],
            width: f.dims()[1],
            columns: 2 * df.capacity,
        };
        let [z, f] = [z, f].map(Floats::expected);
        let before = before.map(|b| b.map(Floats::expected));
        match (&mut df.slots, &mut dr.slots) {
            (Slots::F32(a), Slots::F32(b)) => {
                let seen = look_at::<f32>(shape, [a, b], [&z, &f], before.as_ref(), slot);
                df.looked(shape, seen, before.is_some())
            }
            (Slots::F64(a), Slots::F64(b)) => {
                let seen = look_at::<f64>(shape, [a, b], [&z, &f], before.as_ref(), slot);
                df.looked(shape, seen, before.is_some())
            }
            _ => unreachable!("both rings were made for the same vectors"),
        }
    }

    fn looked<T: Real>(&self, shape: Shape, seen: Seen<T>, products: bool) -> Look {
        let tensor = |elements: Vec<T>, columns: usize| {
            let data = TensorData::new(elements, [shape.batch, columns]);
            Tensor::from_data(data, (&self.device, T::dtype()))
        };
        Look {
            squares: tensor(seen.squares, 2),
            products: products.then(|| tensor(seen.products, shape.columns)),
        }
    }

    /// Computes every sample's part of `out`.
    fn side_by_side<T: Real>(
        &self,
        out: &mut [T],
        part: usize,
        each: impl Fn((usize, &mut [T])) + Send + Sync,
    ) {
        let part = part.max(1);
        let elements = self.batch * self.width * self.capacity;
        if worth_spreading(self.batch, elements) {
            // Few tasks: what a sample needs is soon done.
            let least = self.batch.div_ceil(2 * rayon::current_num_threads());
            let parts = out.par_chunks_exact_mut(part).with_min_len(least);
            parts.enumerate().for_each(each);
        } else {
            out.chunks_exact_mut(part).enumerate().for_each(each);
        }
    }

    fn tensor<T: Real>(&self, elements: Vec<T>, columns: usize) -> Tensor<2> {
        let data = TensorData::new(elements, [self.batch, columns]);
        Tensor::from_data(data, (&self.device, T::dtype()))
    }
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
    let [batch, width] = like.dims();
    let mut products = vec![T::default(); batch];
    let each = |(sample, product): (usize, &mut T)| {
        let row = sample * width..(sample + 1) * width;
        Arch::new().dispatch(Dots {
            slots: &[&a.elements::<T>()[row.clone()]],
            x: &[&b.elements::<T>()[row]],
            products: std::slice::from_mut(product),
            m: 1,
        });
    };
    if worth_spreading(batch, 2 * batch * width) {
        products.par_iter_mut().enumerate().for_each(each);
    } else {
        products.iter_mut().enumerate().for_each(each);
    }
    let data = TensorData::new(products, [batch, 1]);
    Tensor::from_data(data, (&like.device(), T::dtype()))
}

/// What [`HostRing::look`] finds.
pub(crate) struct Look {
    /// |r|^2 and |f|^2, `[batch, 2]`.
    pub(crate) squares: Tensor<2>,
    /// Products of the differences of r with the newest one, then with r: `[batch, 2 m]`.
    pub(crate) products: Option<Tensor<2>>,
}

/// The same on the host.
struct Seen<T> {
    squares: Vec<T>,
    products: Vec<T>,
}

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    width: usize,
    columns: usize,
}

fn look_at<T: Real>(
    shape: Shape,
    [df, dr]: [&mut Vec<Vec<T>>; 2],
    [z, f]: [&Floats; 2],
    before: Option<&[Floats; 2]>,
    slot: usize,
) -> Seen<T> {
    let Shape {
        batch,
        width,
        columns,
    } = shape;
    let mut seen = Seen {
        squares: vec![T::default(); 2 * batch],
        products: vec![T::default(); batch * columns],
    };
    // The newest differences, taken out while the others are read.
    let [mut new_df, mut new_dr] = [&mut *df, &mut *dr].map(|slots| {
        if before.is_none() {
            return Vec::new();
        }
        if slots.len() <= slot {
            slots.resize_with(slot + 1, Vec::new);
        }
        let mut new = std::mem::take(&mut slots[slot]);
        new.resize(batch * width, T::default());
        new
    });
    let (z, f) = (z.elements::<T>(), f.elements::<T>());
    let before = before.map(|[z0, f0]| [z0.elements::<T>(), f0.elements::<T>()]);
    let slots: &[Vec<T>] = dr;
    let each =
        |sample: usize, squares: &mut [T], products: &mut [T], differences: [&mut [T]; 2]| {
            let row = sample * width..(sample + 1) * width;
            let old = before.map(|b| b.map(|x| &x[row.clone()]));
            let others: Vec<&[T]> = slots
                .iter()
                .map(|s| s.get(row.clone()).unwrap_or_default())
                .collect();
            let vectors = [&z[row.clone()], &f[row.clone()]];
            Arch::new().dispatch(LookAtSample {
                vectors,
                before: old,
                others: &others,
                squares,
                products,
                differences,
                slot,
            });
        };
    let spread = worth_spreading(batch, batch * width * columns);
    let least = batch.div_ceil(2 * rayon::current_num_threads());
    let least = if spread { least } else { batch };
    if width == 0 || batch == 0 {
        return seen;
    }
    let differences = match before {
        Some(_) => width,
        None => 1,
    };
    // Without differences there is nothing to write to; a placeholder keeps the parts in step.
    if before.is_none() {
        new_df.resize(batch, T::default());
        new_dr.resize(batch, T::default());
    }
    let parts = seen
        .squares
        .par_chunks_exact_mut(2)
        .zip(seen.products.par_chunks_exact_mut(columns))
        .zip(new_df.par_chunks_exact_mut(differences))
        .zip(new_dr.par_chunks_exact_mut(differences));
    parts
        .with_min_len(least)
        .enumerate()
        .for_each(|(sample, (((squares, products), df), dr))| {
            each(sample, squares, products, [df, dr]);
        });
    if before.is_some() {
        df[slot] = new_df;
        dr[slot] = new_dr;
    }
    seen
}

// Structs instead of closures: what a closure does would not be compiled for the instruction set
// that is dispatched to.

struct LookAtSample<'a, T> {
    /// z and f.
    vectors: [&'a [T]; 2],
    /// The same of the iterate before.
    before: Option<[&'a [T]; 2]>,
    /// Slots of dR.
    others: &'a [&'a [T]],
    squares: &'a mut [T],
    products: &'a mut [T],
    /// The newest of f and r.
    differences: [&'a mut [T]; 2],
    slot: usize,
}

impl<T: Real> WithSimd for LookAtSample<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            vectors: [z, f],
            before,
            others,
            squares,
            products,
            differences: [new_df, new_dr],
            slot,
        } = self;
        let m = products.len() / 2;
        let mut r = [T::default(); BLOCK];
        for start in (0..z.len()).step_by(BLOCK) {
            let block = start..z.len().min(start + BLOCK);
            let (z, f) = (&z[block.clone()], &f[block.clone()]);
            let r = &mut r[..block.len()];
            for ((r, z), f) in r.iter_mut().zip(z).zip(f) {
                *r = *f - *z;
            }
            let r = &*r;
            let [rr] = T::dot(simd, r, [r]);
            let [ff] = T::dot(simd, f, [f]);
            squares[0] += rr;
            squares[1] += ff;
            let Some([z0, f0]) = before else { continue };
            let (z0, f0) = (&z0[block.clone()], &f0[block.clone()]);
            let new_df = &mut new_df[block.clone()];
            for ((d, f), f0) in new_df.iter_mut().zip(f).zip(f0) {
                *d = *f - *f0;
            }
            let new_dr = &mut new_dr[block.clone()];
            for (((d, r), f0), z0) in new_dr.iter_mut().zip(r).zip(f0).zip(z0) {
                // As r - r0 would be rounded.
                *d = *r - (*f0 - *z0);
            }
            let new_dr = &*new_dr;
            for (j, other) in others.iter().enumerate() {
                let other = if j == slot {
                    new_dr
                } else {
                    &other[block.clone()]
                };
                let [with_new, with_r] = T::dot(simd, other, [new_dr, r]);
                products[j] += with_new;
                products[m + j] += with_r;
            }
        }
    }
}

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

struct Combine<'a, T> {
    start: Option<&'a [T]>,
    used: &'a [(T, &'a [T])],
    width: usize,
    sum: &'a mut Vec<T>,
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

/// Appends start and the weighted slots, in blocks that are summed up in the cache.
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
