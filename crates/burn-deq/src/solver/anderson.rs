//! Anderson acceleration for all samples of a batch at once.
//!
//! ```text
//! r = f(z) - z;   dZ, dF, dR: the last m differences of z, f(z) and r
//! gamma:  (dR'dR + ridge) gamma = dR'r       type II
//!         (dZ'dR + ridge) gamma = dZ'r       type I
//! z+ = f - dF gamma - (1 - damping) (r - dR gamma)
//! ```
//!
//! See [`AndersonConfig`] for the sources and the safeguards, and `weights` for the systems.

use burn::tensor::Tensor;
use deq_kernels::vectors::{History, HistoryShape, Numbers, Rows, Seen, history};

use super::weights::Weights;
use crate::config::{AndersonConfig, AndersonType};
use crate::iteration::{Iteration, Observation, Operator, Scalars};

/// A step asks the history for one row of the Gram matrix of dR and the products with r. They are
/// read back together with the norms.
pub(super) struct Anderson {
    config: AndersonConfig,
    shape: HistoryShape,
    z: Tensor<2>,
    /// Points (z, f(z)) observed so far.
    points: usize,
    /// Known from the first point on.
    history: Option<Box<dyn History>>,
    /// Between `observe` and `advance`.
    seen: Option<Seen>,
    weights: Weights,
}

impl Anderson {
    /// Starts from `start`. `config.history` must not be 0.
    pub(super) fn new(start: Tensor<2>, config: &AndersonConfig) -> Self {
        Self {
            shape: HistoryShape {
                slots: config.history,
                secant: config.kind == AndersonType::I,
                damping: config.damping,
            },
            weights: Weights::new(config, start.dtype()),
            config: config.clone(),
            z: start,
            points: 0,
            history: None,
            seen: None,
        }
    }
}

impl Iteration for Anderson {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let (z, f) = (self.z.clone(), map.apply(self.z.clone()));
        self.points += 1;
        let new = || history(self.shape, &z, &f);
        let seen = self.history.get_or_insert_with(new).observe(&z, &f);
        let observation = Observation {
            state: z,
            image: Some(f),
            residual: seen.residual.clone(),
            within: None,
            squares: Some(seen.squares.clone()),
            extra: match &seen.products {
                Some(Numbers::Device(products)) => Some(products.clone()),
                _ => None,
            },
        };
        self.seen = Some(seen);
        observation
    }

    fn advance(&mut self, _map: &mut Operator<'_>, scalars: Option<&Scalars>) {
        let (Some(seen), Some(history)) = (self.seen.take(), &mut self.history) else {
            return;
        };
        let due = |every: usize| self.points.is_multiple_of(every.max(1));
        if self.config.restart.is_some_and(due) {
            self.weights.restart();
        }
        let (slot, accelerate) = (self.shape.slot(self.points), due(self.config.period));
        let decided = self.weights.decide(seen, scalars, slot, accelerate);
        self.z = history.next(decided.gamma, decided.back);
    }

    fn keep(&mut self, rows: &Rows) {
        self.z = rows.of(self.z.clone());
        self.seen = self.seen.take().map(|seen| seen.keep(rows));
        if let Some(history) = &mut self.history {
            history.keep(rows);
        }
        self.weights.keep(rows);
    }

    fn recovers(&self) -> bool {
        true
    }
}
