//! A [`Ring`](super::ring::Ring) in the host's memory, for plain tensors on Burn's CPU backend.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::vectors::{BLOCK, Combine, Floats, Real, products, worth_spreading};
use crate::map::Rows;

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
        let m = self.capacity;
        let slots: Vec<&[T]> = slots.iter().map(Vec::as_slice).collect();
        let x: Vec<&[T]> = x.iter().map(Floats::elements).collect();
        let products = products([self.batch, self.width], &slots, &x, m);
        self.tensor(products, x.len() * m)
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

    fn tensor<T: Real>(&self, elements: Vec<T>, columns: usize) -> Tensor<2> {
        let data = TensorData::new(elements, [self.batch, columns]);
        Tensor::from_data(data, (&self.device, T::dtype()))
    }
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

// A struct for the reason given in `vectors`.

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
