//! Anderson acceleration for all samples of a batch at once.

use burn::tensor::{Bool, Tensor, TensorData};

use super::device_weights::DeviceWeights;
use super::point_history::PointHistory;
#[cfg(feature = "flex")]
use super::points::Points;
use super::ring::Ring;
use super::squares as norms;
use super::weights::{Decision, HostWeights, Weights, columns, decide};
use crate::config::{AndersonConfig, AndersonType};
use crate::driver::{Iteration, Observation, Operator, Scalars, mask};
use crate::input::Rows;

/// Anderson acceleration; see [`AndersonConfig`] for the formula and the safeguards.
///
/// The differences are stored in rings. A step computes one row of the Gram matrix of dR and its
/// products with r by one matrix product, reads them back together with the norms, and solves the m
/// x m systems in f64 on the host.
pub(crate) struct Anderson {
    config: AndersonConfig,
    z: Tensor<2>,
    /// The current iterate, then the previous one.
    current: Option<Point>,
    previous: Option<Point>,
    /// |r|^2 and |f|^2, and products of the newest differences, between `observe` and `advance`.
    squares: Option<Tensor<2>>,
    products: Option<Tensor<2>>,
    history: Option<History>,
    /// Slot of the ring that holds the newest difference.
    slot: usize,
    observations: usize,
    weights: Weights,
    /// Replaces all of the above if the host can read the iterates.
    #[cfg(feature = "flex")]
    points: Option<Points>,
    /// Replaces the rings where the device computes all products in one launch.
    history_of_points: Option<PointHistory>,
}

/// f and the residual at an iterate.
struct Point {
    f: Tensor<2>,
    r: Tensor<2>,
}

impl Point {
    fn map(self, each: impl Fn(Tensor<2>) -> Tensor<2>) -> Self {
        Self {
            f: each(self.f),
            r: each(self.r),
        }
    }

    /// `other` in these rows, `self` elsewhere.
    fn replaced(self, rows: &Tensor<2, Bool>, other: Self) -> Self {
        let wide = rows.clone().expand(self.f.dims());
        let pick = |own: Tensor<2>, other| own.mask_where(wide.clone(), other);
        Self {
            f: pick(self.f, other.f),
            r: pick(self.r, other.r),
        }
    }
}

/// Differences of f and r.
struct History {
    df: Ring,
    dr: Ring,
}

impl History {
    fn new(like: &Tensor<2>, slots: usize) -> Self {
        Self {
            df: Ring::new(like, slots),
            dr: Ring::new(like, slots),
        }
    }
}

impl Anderson {
    pub(crate) fn new(start: Tensor<2>, config: AndersonConfig) -> Self {
        Self {
            config,
            z: start,
            current: None,
            previous: None,
            squares: None,
            products: None,
            history: None,
            slot: 0,
            observations: 0,
            weights: Weights::Unset,
            #[cfg(feature = "flex")]
            points: None,
            history_of_points: None,
        }
    }

    /// Stores the newest differences and returns their products `[batch, columns * m]`.
    fn remember(&mut self, now: &Point, before: &Point) -> Tensor<2> {
        let m = self.config.history;
        let (f, f0) = (&now.f, &before.f);
        let (r, r0) = (&now.r, &before.r);
        self.slot = (self.observations - 2) % m;
        let history = self.history.get_or_insert_with(|| History::new(f, m));
        let new_df = f.clone() - f0.clone();
        let new_dr = r.clone() - r0.clone();
        history.df.store(self.slot, new_df.clone());
        history.dr.store(self.slot, new_dr.clone());
        let products = match self.config.kind {
            AndersonType::II => history.dr.products(&[&new_dr, r]),
            AndersonType::I => {
                let new_dz = new_df - new_dr.clone();
                let first = history.dr.products(&[&new_dr, r, &new_dz]);
                Tensor::cat(vec![first, history.df.products(&[&new_dr, r])], 1)
            }
        };
        debug_assert_eq!(products.dims()[1], columns(self.config.kind) * m);
        products
    }

    /// Prepares the weights for the iterate f at the first step, and drops the history when it is
    /// due.
    fn refresh(&mut self, f: &Tensor<2>, on_host: bool) {
        if matches!(self.weights, Weights::Unset) {
            self.weights = if on_host {
                let one = HostWeights::new(&self.config, f.dtype());
                Weights::Host(vec![one; f.dims()[0]])
            } else {
                Weights::Device(Box::new(DeviceWeights::new(&self.config, f)))
            };
        }
        if let Some(every) = self.config.restart
            && self.observations.is_multiple_of(every.max(1))
        {
            self.weights.restart();
        }
    }

    /// Weights, m for each sample, `None` if all are zero, and whether each sample's last step is
    /// rejected.
    fn decide_on_host(&mut self, scalars: &Scalars) -> (Option<Vec<f64>>, Vec<bool>) {
        let Weights::Host(samples) = &mut self.weights else {
            unreachable!("the driver always provides scalars, or never");
        };
        let accelerate = self.observations.is_multiple_of(self.config.period.max(1));
        let safeguard = self.config.safeguard;
        let decisions = decide(samples, scalars, self.slot, safeguard, accelerate);
        let back = decisions.iter().map(|d| *d == Decision::TakeBack).collect();
        let weights: Vec<f64> = decisions
            .into_iter()
            .zip(&*samples)
            .flat_map(|(decision, sample)| match decision {
                Decision::Accelerate => sample.gamma.clone(),
                _ => vec![0.0; self.config.history],
            })
            .collect();
        (weights.iter().any(|w| *w != 0.0).then_some(weights), back)
    }

    /// Weights `[batch, m]`, `None` if all are zero, and the samples whose last step is rejected,
    /// `None` if there are none.
    fn decide(
        &mut self,
        now: &Point,
        scalars: Option<&Scalars>,
    ) -> (Option<Tensor<2>>, Option<Tensor<2, Bool>>) {
        self.refresh(&now.f, scalars.is_some());
        let accelerate = self.observations.is_multiple_of(self.config.period.max(1));
        let (squares, products) = (self.squares.take(), self.products.take());
        match (&mut self.weights, scalars) {
            (Weights::Host(_), Some(scalars)) => {
                let (weights, back) = self.decide_on_host(scalars);
                let gamma = weights.map(|weights| {
                    let data = TensorData::new(weights, [back.len(), self.config.history]);
                    Tensor::from_data(data, (&now.f.device(), now.f.dtype()))
                });
                (gamma, back.contains(&true).then(|| mask(&back, &now.f)))
            }
            (Weights::Device(device), _) => {
                let squares = squares.unwrap_or_else(|| norms(&now.r, &now.f));
                let safeguard = self.config.safeguard;
                let decision = device.update(squares, products, self.slot, safeguard, accelerate);
                (Some(decision.gamma), Some(decision.back))
            }
            // The driver always provides scalars, or never.
            _ => (None, None),
        }
    }

    /// The step where the history is one of points. Without scalars it turns into the general one.
    fn advance_points(&mut self, mut points: PointHistory, scalars: Option<&Scalars>) {
        let Some(scalars) = scalars else {
            self.current = points.newest().map(|[z, f]| Point {
                r: f.clone() - z,
                f,
            });
            return;
        };
        let like = self.z.clone();
        self.refresh(&like, true);
        let (weights, back) = self.decide_on_host(scalars);
        let back = back.contains(&true).then(|| mask(&back, &like));
        self.z = points.next(self.observations, weights.as_deref(), back);
        self.history_of_points = Some(points);
    }
}

impl Iteration for Anderson {
    fn observe(&mut self, map: &mut Operator<'_>) -> Observation {
        let image = map.apply(self.z.clone());
        self.observations += 1;
        #[cfg(feature = "flex")]
        if self.observations == 1 {
            self.points = Points::new(&self.config, &self.z, &image);
        }
        #[cfg(feature = "flex")]
        if let Some(points) = &mut self.points {
            return Observation {
                state: self.z.clone(),
                squares: Some(points.observe(self.observations, &self.z, &image)),
                image: Some(image),
                residual: None,
                within: None,
                extra: None,
            };
        }
        if self.observations == 1 {
            self.history_of_points = PointHistory::new(&self.config, &image);
        }
        if let Some(points) = &mut self.history_of_points {
            let (squares, products) = points.observe(self.observations, &self.z, &image);
            self.slot = (self.observations + self.config.history - 2) % self.config.history;
            (self.squares, self.products) = (Some(squares), products);
            return Observation {
                state: self.z.clone(),
                image: Some(image),
                residual: None,
                within: None,
                squares: self.squares.clone(),
                extra: self.products.clone(),
            };
        }
        let residual = image.clone() - self.z.clone();
        let now = Point {
            f: image.clone(),
            r: residual.clone(),
        };
        if let Some(before) = self.previous.take() {
            self.products = Some(self.remember(&now, &before));
            self.previous = Some(before);
        }
        self.current = Some(now);
        self.squares = Some(norms(&residual, &image));
        Observation {
            state: self.z.clone(),
            image: Some(image),
            residual: Some(residual),
            within: None,
            squares: self.squares.clone(),
            extra: self.products.clone(),
        }
    }

    fn advance(&mut self, _map: &mut Operator<'_>, scalars: Option<&Scalars>) {
        #[cfg(feature = "flex")]
        if let Some(points) = &self.points {
            self.z = points.next();
            return;
        }
        if let Some(points) = self.history_of_points.take() {
            self.advance_points(points, scalars);
            if self.history_of_points.is_some() {
                return;
            }
        }
        let Some(mut now) = self.current.take() else {
            return;
        };
        let (gamma, back) = self.decide(&now, scalars);
        let before = self.previous.take();
        if let (Some(back), Some(before)) = (back, before) {
            // The previous iterate replaces the worse one.
            if let Some(History { df, dr }) = &mut self.history {
                df.clean(self.slot, &back);
                dr.clean(self.slot, &back);
            }
            now = now.replaced(&back, before);
        }
        let damping = self.config.damping;
        let mut next = now.f.clone();
        if damping != 1.0 {
            next = next - now.r.clone() * (1.0 - damping);
        }
        if let (Some(history), Some(gamma)) = (&self.history, gamma) {
            next = history.df.less(next, gamma.clone());
            if damping != 1.0 {
                next = history.dr.less(next, gamma * (damping - 1.0));
            }
        }
        self.previous = Some(now);
        self.z = next;
    }

    fn keep(&mut self, rows: &Rows) {
        let of = |point: Option<Point>| point.map(|p| p.map(|t| rows.of(t)));
        self.z = rows.of(self.z.clone());
        self.current = of(self.current.take());
        self.previous = of(self.previous.take());
        self.squares = self.squares.take().map(|t| rows.of(t));
        self.products = self.products.take().map(|t| rows.of(t));
        if let Some(History { df, dr }) = &mut self.history {
            df.keep(rows);
            dr.keep(rows);
        }
        self.weights.keep(rows);
        if let Some(points) = &mut self.history_of_points {
            points.keep(rows);
        }
        #[cfg(feature = "flex")]
        if let Some(points) = &mut self.points {
            points.keep(rows);
        }
    }

    fn recovers(&self) -> bool {
        true
    }
}
