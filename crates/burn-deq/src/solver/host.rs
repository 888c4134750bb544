//! A [`Ring`](super::ring::Ring) in the host's memory, for plain tensors on Burn's CPU backend.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::{BLOCK, Combine, Floats, Real, products, worth_spreading};
use crate::input::Rows;

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

impl HostRing {
    /// A ring for vectors like this one, if the host can read them.
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
        let m = self.capacity;
        let slots: Vec<&[T]> = slots.iter().map(Vec::as_slice).collect();
        let x: Vec<&[T]> = x.iter().map(Floats::elements).collect();
        let products = products([self.batch, self.width], &slots, &x, m);
        self.tensor(products, x.len() * m)
    }

    pub(crate) fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let weights = Floats::expected(&weights);
        of_both!(self, slots => self.combination_of(slots, &weights))
    }

    fn combination_of<T: Real>(&self, slots: &[Vec<T>], weights: &Floats) -> Tensor<2> {
        let (width, m) = (self.width, self.capacity);
        let weights: &[T] = weights.elements();
        let add = |sample: usize, sum: &mut Vec<T>| {
            let row = sample * width..(sample + 1) * width;
            let weights = &weights[sample * m..(sample + 1) * m];
            let used = weights.iter().zip(slots);
            let used = used.filter(|(weight, _)| **weight != T::default());
            let used: Vec<(T, &[T])> = used.map(|(w, s)| (*w, &s[row.clone()])).collect();
            Arch::new().dispatch(Combine {
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
                // The rows ascend, so none is overwritten before it has moved.
                for (to, from) in rows.indices().iter().enumerate() {
                    slot.copy_within(from * width..(from + 1) * width, to * width);
                }
                slot.truncate(rows.indices().len() * width);
            }
        });
    }

    fn tensor<T: Real>(&self, elements: Vec<T>, columns: usize) -> Tensor<2> {
        let data = TensorData::new(elements, [self.batch, columns]);
        Tensor::from_data(data, (&self.device, T::dtype()))
    }
}

/// |x - y|^2 of each sample, `[batch, 1]`, in one pass over the memory.
pub(super) fn square_distance(x: &Tensor<2>, y: &Tensor<2>) -> Option<Tensor<2>> {
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
    let [batch, width] = like.dims();
    let (a, b): (&[T], &[T]) = (a.elements(), b.elements());
    let rows = a.chunks_exact(width).zip(b.chunks_exact(width));
    let squares: Vec<T> = rows
        .map(|(a, b)| Arch::new().dispatch(Distance { a, b }))
        .collect();
    let data = TensorData::new(squares, [batch, 1]);
    Tensor::from_data(data, (&like.device(), T::dtype()))
}

/// A struct, not a closure: see `vectors`.
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
