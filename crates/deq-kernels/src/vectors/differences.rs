//! A history as two rings of differences: the portable form.

use burn::tensor::{Bool, Tensor};

use super::arithmetic::squares;
use super::ring::DeviceRing;
use super::rows::Rows;
use super::store::{History, HistoryShape, Numbers, Ring, Seen};

/// An empty history.
pub(super) fn history(shape: HistoryShape) -> Box<dyn History> {
    Box::new(Differences {
        shape,
        points: 0,
        newest: None,
        previous: None,
        rings: None,
    })
}

struct Differences {
    shape: HistoryShape,
    /// Points seen so far.
    points: usize,
    /// f and r at the newest point, between `observe` and `next`, and at the point before.
    newest: Option<[Tensor<2>; 2]>,
    previous: Option<[Tensor<2>; 2]>,
    /// df and dr.
    rings: Option<[DeviceRing; 2]>,
}

impl Differences {
    /// Stores the newest differences and returns their products.
    fn remember(&mut self, [f, r]: [&Tensor<2>; 2], [f0, r0]: [Tensor<2>; 2]) -> Tensor<2> {
        let slot = self.shape.slot(self.points);
        let new = || std::array::from_fn(|_| DeviceRing::new(f, self.shape.slots));
        let [df, dr] = self.rings.get_or_insert_with(new);
        let (new_df, new_dr) = (f.clone() - f0, r.clone() - r0);
        df.store(slot, new_df.clone());
        dr.store(slot, new_dr.clone());
        if !self.shape.secant {
            return dr.products(&[&new_dr, r]);
        }
        let new_dz = new_df - new_dr.clone();
        let first = dr.products(&[&new_dr, r, &new_dz]);
        Tensor::cat(vec![first, df.products(&[&new_dr, r])], 1)
    }
}

impl History for Differences {
    fn observe(&mut self, z: &Tensor<2>, f: &Tensor<2>) -> Seen {
        let r = f.clone() - z.clone();
        self.points += 1;
        let before = self.previous.clone();
        let products = before.map(|before| Numbers::Device(self.remember([f, &r], before)));
        self.newest = Some([f.clone(), r.clone()]);
        Seen {
            squares: squares(&r, f),
            residual: Some(r),
            products,
        }
    }

    fn next(&mut self, gamma: Option<Numbers>, back: Option<Tensor<2, Bool>>) -> Tensor<2> {
        let mut now = self.newest.take().expect("a point was observed");
        if let (Some(back), Some(before)) = (back, self.previous.take()) {
            let slot = self.shape.slot(self.points);
            let rings = self.rings.iter_mut().flatten();
            rings.for_each(|ring| ring.clean(slot, &back));
            let wide = back.expand(before[0].dims());
            let pick = |(own, other): (Tensor<2>, _)| own.mask_where(wide.clone(), other);
            let [f0, r0] = before;
            let [f, r] = now;
            now = [(f, f0), (r, r0)].map(pick);
        }
        let [f, r] = now.clone();
        self.previous = Some(now);
        let rest = 1.0 - self.shape.damping;
        let mut next = f;
        if rest != 0.0 {
            next = next - r * rest;
        }
        if let (Some([df, dr]), Some(gamma)) = (&self.rings, gamma) {
            let gamma = gamma.tensor(&next);
            next = next - df.combine(gamma.clone());
            if rest != 0.0 {
                next = next - dr.combine(gamma * -rest);
            }
        }
        next
    }

    fn keep(&mut self, rows: &Rows) {
        for point in [&mut self.newest, &mut self.previous] {
            *point = point.take().map(|p| p.map(|t| rows.of(t)));
        }
        let rings = self.rings.iter_mut().flatten();
        rings.for_each(|ring| ring.keep(rows));
    }
}
