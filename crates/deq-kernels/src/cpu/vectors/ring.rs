//! A ring in the host's memory. Every slot has its own memory, allocated when it is first used.
//! Products and combinations run over the used slots only, in the cache.

use burn::tensor::{DType, Tensor};
use pulp::Arch;
use rayon::prelude::*;

use super::floats::{Floats, tensor, worth_spreading};
use super::products::{Combine, products};
use super::real::Real;
use crate::vectors::Rows;
use crate::vectors::store::Ring;

/// A ring for vectors like this one, if the host can read them.
pub(crate) fn ring(like: &Tensor<2>, capacity: usize) -> Option<Box<dyn Ring>> {
    Floats::new(like)?;
    let [batch, width] = like.dims();
    Some(match like.dtype() {
        DType::F64 => Box::new(HostRing::<f64>::new(capacity, batch, width)),
        _ => Box::new(HostRing::<f32>::new(capacity, batch, width)),
    })
}

struct HostRing<T> {
    /// Slots in use, `[batch, n]` each.
    slots: Vec<Vec<T>>,
    capacity: usize,
    batch: usize,
    width: usize,
}

impl<T> HostRing<T> {
    fn new(capacity: usize, batch: usize, width: usize) -> Self {
        Self {
            slots: Vec::new(),
            capacity,
            batch,
            width,
        }
    }
}

impl<T: Real> Ring for HostRing<T> {
    fn store(&mut self, slot: usize, x: Tensor<2>) {
        // Slots are filled in order.
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Vec::new);
        }
        self.slots[slot].clear();
        self.slots[slot].extend_from_slice(Floats::expected(&x).elements());
    }

    fn products(&self, x: &[&Tensor<2>]) -> Tensor<2> {
        let floats: Vec<Floats> = x.iter().map(|x| Floats::expected(x)).collect();
        let slots: Vec<&[T]> = self.slots.iter().map(Vec::as_slice).collect();
        let all: Vec<&[T]> = floats.iter().map(Floats::elements).collect();
        let products = products([self.batch, self.width], &slots, &all, self.capacity);
        tensor(products, x.len() * self.capacity, x[0])
    }

    /// A weight of zero skips a slot.
    fn combine(&self, weights: Tensor<2>) -> Tensor<2> {
        let (width, m) = (self.width, self.capacity);
        let floats = Floats::expected(&weights);
        let all: &[T] = floats.elements();
        let add = |sample: usize, sum: &mut Vec<T>| {
            let row = sample * width..(sample + 1) * width;
            let used = all[sample * m..(sample + 1) * m].iter().zip(&self.slots);
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
        tensor(sum, width, &weights)
    }

    fn keep(&mut self, rows: &Rows) {
        let width = self.width;
        self.batch = rows.indices().len();
        for slot in &mut self.slots {
            // The rows ascend, so none is overwritten before it has moved.
            for (to, from) in rows.indices().iter().enumerate() {
                slot.copy_within(from * width..(from + 1) * width, to * width);
            }
            slot.truncate(rows.indices().len() * width);
        }
    }
}
