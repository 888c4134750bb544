//! Terms that are not differentiable everywhere, given by their proximal maps.

use std::fmt::Debug;
use std::sync::Arc;

use burn::serde::{Deserialize, Serialize};
use burn::tensor::Tensor;

use crate::context::{Branches, indicator, map_branches, sum_samples};
use crate::graph::{Builder, Op, Value};

/// A convex function r of the state whose proximal map, prox(v) = argmin over u of step r(u) + 1/2
/// |u - v|^2, is known and piecewise linear with slopes 0 and 1.
///
/// An objective has at most one, because the proximal map of a sum is not that of its parts.
pub trait Proximal: Debug + Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &str;

    /// r for every sample, `[batch]`; infinite outside its domain.
    fn value(&self, z: &Branches) -> Tensor<1>;

    /// prox(v).
    fn prox(&self, v: Branches, step: f64) -> Branches;

    /// The derivative of [`prox`](Self::prox) at v: 1 where it moves with v, 0 where it does not;
    /// either value at a kink.
    fn mask(&self, v: &Branches, step: f64) -> Branches;

    /// The configuration, if the crate provides this function.
    fn config(&self) -> Option<Constraint> {
        None
    }

    /// [`prox`](Self::prox) of a branch as operations of a graph. Without them, a network with this
    /// constraint cannot be exported as a graph.
    fn operations(&self, graph: &mut Builder, v: Value, step: f64) -> Option<Value> {
        let _ = (graph, v, step);
        None
    }
}

/// The constraints that the crate provides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Constraint {
    /// z >= 0: the proximal map is ReLU. The default.
    #[default]
    NonNegative,
    /// low <= z <= high: the proximal map clips.
    Interval {
        /// Smallest value of an element.
        low: f64,
        /// Largest value of an element.
        high: f64,
    },
    /// weight * |z|_1: the proximal map is soft thresholding by step * weight.
    L1 {
        /// Weight of the norm.
        weight: f64,
    },
    /// weight * sum of z, with z >= 0, as in nonnegative sparse coding: the proximal map is ReLU
    /// after a shift by step * weight.
    Sparse {
        /// Weight of the sum.
        weight: f64,
    },
}

impl Constraint {
    /// This constraint for an objective.
    pub fn shared(self) -> Arc<dyn Proximal> {
        Arc::new(self)
    }

    fn bounds(&self) -> (f64, f64) {
        match *self {
            Self::NonNegative | Self::Sparse { .. } => (0.0, f64::INFINITY),
            Self::Interval { low, high } => (low, high),
            Self::L1 { .. } => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }
}

impl Proximal for Constraint {
    fn config(&self) -> Option<Constraint> {
        Some(*self)
    }

    fn name(&self) -> &str {
        match self {
            Self::NonNegative => "non-negative",
            Self::Interval { .. } => "interval",
            Self::L1 { .. } => "l1 norm",
            Self::Sparse { .. } => "sparse",
        }
    }

    fn value(&self, z: &Branches) -> Tensor<1> {
        if let Self::L1 { weight } = self {
            return sum_samples(z.iter().map(|z| z.clone().abs())) * *weight;
        }
        let (low, high) = self.bounds();
        let outside = sum_samples(z.iter().map(|z| {
            let low = indicator(z.clone().lower_elem(low), z);
            low + indicator(z.clone().greater_elem(high), z)
        }));
        let mask = outside.clone().greater_elem(0.0);
        let outside = outside.mask_fill(mask, f64::INFINITY);
        match self {
            Self::Sparse { weight } => outside + sum_samples(z.iter().cloned()) * *weight,
            _ => outside,
        }
    }

    fn prox(&self, v: Branches, step: f64) -> Branches {
        map_branches(&v, |v| match *self {
            Self::NonNegative => v.clamp_min(0.0),
            Self::Sparse { weight } => (v - step * weight).clamp_min(0.0),
            Self::Interval { low, high } => v.clamp(low, high),
            Self::L1 { weight } => {
                let t = step * weight;
                v.clone() - v.clamp(-t, t)
            }
        })
    }

    fn mask(&self, v: &Branches, step: f64) -> Branches {
        map_branches(v, |v| match *self {
            Self::NonNegative => indicator(v.clone().greater_elem(0.0), &v),
            Self::Interval { low, high } => {
                let above = indicator(v.clone().greater_elem(low), &v);
                above * indicator(v.clone().lower_elem(high), &v)
            }
            Self::Sparse { weight } => indicator(v.clone().greater_elem(step * weight), &v),
            Self::L1 { weight } => indicator(v.clone().abs().greater_elem(step * weight), &v),
        })
    }

    fn operations(&self, graph: &mut Builder, v: Value, step: f64) -> Option<Value> {
        Some(match *self {
            Self::NonNegative => graph.relu(v),
            Self::Sparse { weight } => {
                let shifted = graph.function(Op::Shift(-step * weight), v);
                graph.relu(shifted)
            }
            Self::Interval { low, high } => graph.clamp(v, low, high),
            Self::L1 { weight } => {
                let t = step * weight;
                let within = graph.clamp(v, -t, t);
                graph.combine(&[(1.0, v), (-1.0, within)])
            }
        })
    }
}
