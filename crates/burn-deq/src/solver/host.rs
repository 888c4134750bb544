//! A [`Ring`](super::ring::Ring) in the host's memory, for plain tensors on Burn's CPU backend.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Bool, DType, Device, Element, Tensor, TensorData};
use pulp::Arch;
use pulp::bytemuck::Pod;
use rayon::prelude::*;

use crate::map::Rows;

/// Numbers that a sum is kept in, to be added up in the end: enough for two vector registers.
const LANES: usize = 16;
/// Elements that are worked on at once: some vectors of them fit the first-level cache.
const BLOCK: usize = 1024;
/// Elements of a sample's slots from which on samples are spread over the cores.
const WORTH_SPREADING: usize = 1 << 16;

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
struct Floats(FloatTensor<Flex>);

impl Floats {
    fn new(x: &Tensor<2>) -> Option<Self> {
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

    fn elements<T: Real>(&self) -> &[T] {
        self.0
            .as_slice()
            .expect("the elements of a contiguous tensor of this type")
    }
}

trait Real:
    Element
    + Pod
    + Default
    + PartialEq
    + Send
    + Sync
    + std::ops::AddAssign
    + std::ops::Mul<Output = Self>
{
}

impl Real for f32 {}
impl Real for f64 {}

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
            Arch::new().dispatch(|| dots(&slots, &x, products, m));
        };
        self.side_by_side(&mut products, columns, each);
        self.tensor(products, columns)
    }

    pub(crate) fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let weights = Floats::expected(&weights);
        of_both!(self, slots => self.combination_of(slots, &weights))
    }

    fn combination_of<T: Real>(&self, slots: &[Vec<T>], weights: &Floats) -> Tensor<2> {
        let (width, m) = (self.width, self.capacity);
        let weights: &[T] = weights.elements();
        let mut sum = vec![T::default(); self.batch * width];
        let each = |(sample, sum): (usize, &mut [T])| {
            let row = sample * width..(sample + 1) * width;
            let weights = &weights[sample * m..(sample + 1) * m];
            let used = weights.iter().zip(slots);
            let used = used.filter(|(weight, _)| **weight != T::default());
            let used: Vec<(T, &[T])> = used.map(|(w, s)| (*w, &s[row.clone()])).collect();
            Arch::new().dispatch(|| combine(&used, sum));
        };
        self.side_by_side(&mut sum, width, each);
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

    /// Computes every sample's part of `out`.
    fn side_by_side<T: Real>(
        &self,
        out: &mut [T],
        part: usize,
        each: impl Fn((usize, &mut [T])) + Send + Sync,
    ) {
        let part = part.max(1);
        let work = self.batch * self.width * self.capacity;
        if self.batch > 1 && work >= WORTH_SPREADING {
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

/// Inner products of each x with each slot: `products[x * m + slot]`.
#[inline(always)]
fn dots<T: Real>(slots: &[&[T]], x: &[&[T]], products: &mut [T], m: usize) {
    let width = x.first().map_or(0, |x| x.len());
    for start in (0..width).step_by(BLOCK) {
        let block = start..width.min(start + BLOCK);
        for (j, slot) in slots.iter().enumerate() {
            let slot = &slot[block.clone()];
            match x {
                [x, y] => {
                    let [first, second] = dot(slot, [&x[block.clone()], &y[block.clone()]]);
                    products[j] += first;
                    products[m + j] += second;
                }
                all => {
                    for (k, x) in all.iter().enumerate() {
                        let [product] = dot(slot, [&x[block.clone()]]);
                        products[k * m + j] += product;
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn dot<T: Real, const N: usize>(a: &[T], x: [&[T]; N]) -> [T; N] {
    let mut sums = [[T::default(); LANES]; N];
    let (blocks, rest) = a.as_chunks::<LANES>();
    let x_blocks = x.map(|x| x.as_chunks::<LANES>().0);
    for (k, a) in blocks.iter().enumerate() {
        for (sums, x) in sums.iter_mut().zip(x_blocks) {
            for ((sum, a), x) in sums.iter_mut().zip(a).zip(&x[k]) {
                *sum += *a * *x;
            }
        }
    }
    let start = a.len() - rest.len();
    std::array::from_fn(|n| {
        let mut sum = T::default();
        sums[n].iter().for_each(|s| sum += *s);
        for (a, x) in rest.iter().zip(&x[n][start..]) {
            sum += *a * *x;
        }
        sum
    })
}

/// The weighted sum of slots, in blocks that stay in the cache.
#[inline(always)]
fn combine<T: Real>(used: &[(T, &[T])], sum: &mut [T]) {
    for (k, sum) in sum.chunks_mut(BLOCK).enumerate() {
        let start = k * BLOCK;
        // Two slots at once save half of the passes over the sum.
        let (pairs, rest) = used.as_chunks::<2>();
        for [(a, x), (b, y)] in pairs {
            let slots = x[start..].iter().zip(&y[start..]);
            for (sum, (x, y)) in sum.iter_mut().zip(slots) {
                *sum += *a * *x;
                *sum += *b * *y;
            }
        }
        for (a, x) in rest {
            for (sum, x) in sum.iter_mut().zip(&x[start..]) {
                *sum += *a * *x;
            }
        }
    }
}
