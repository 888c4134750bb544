//! How far the values of a network can move, part by part.

use super::{Lipschitz, LipschitzError, PartConstant, Read};
use crate::norm_bound::largest;

/// How far a value can move. It moves by a sum of vectors v_p whose channels are scaled.
///
/// Entry 0 of the amounts bounds |v_p| if the picture moves by 1. Entry i + 1 bounds it if an error
/// of its solve moves the state of equilibrium i by 1.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Channels, height and width.
    pub(crate) shape: [usize; 3],
    pub(crate) summands: Vec<Summand>,
}

/// scale * v, channel by channel, with |v| <= amounts.
#[derive(Clone, Debug)]
pub(crate) struct Summand {
    pub(crate) scale: Vec<f64>,
    pub(crate) amounts: Vec<f64>,
}

impl Change {
    /// The change of pictures whose channels are first multiplied by `scale`.
    pub(crate) fn of_pictures(shape: [usize; 3], scale: &[f64]) -> Result<Self, LipschitzError> {
        if scale.len() != shape[0] {
            return Err(LipschitzError::Channels {
                found: scale.len(),
                expected: shape[0],
            });
        }
        let summand = Summand {
            scale: scale.to_vec(),
            amounts: vec![1.0],
        };
        Ok(Self {
            shape,
            summands: vec![summand],
        })
    }

    /// The change after a part whose outputs have this shape. `factor` is its factor for inputs
    /// whose channels are scaled.
    pub(crate) fn through(&self, shape: [usize; 3], factor: impl Fn(&[f64]) -> f64) -> Self {
        let mut amounts = Vec::new();
        for summand in &self.summands {
            let factor = factor(&summand.scale);
            add(&mut amounts, &summand.amounts, factor);
        }
        let scale = vec![1.0; shape[0]];
        Self {
            shape,
            summands: vec![Summand { scale, amounts }],
        }
    }

    /// The change after a ReLU. It is not linear, so scales cannot pass through it.
    pub(crate) fn relu(&self) -> Self {
        self.through(self.shape, widest)
    }

    /// The change after its channels are multiplied by these factors.
    pub(crate) fn scaled(mut self, factors: &[f64]) -> Self {
        for summand in &mut self.summands {
            let pairs = summand.scale.iter_mut().zip(factors);
            pairs.for_each(|(scale, factor)| *scale *= factor);
        }
        self
    }

    /// The change after averaging over cells of 2 x 2 pixels.
    pub(crate) fn halved(mut self) -> Self {
        let [channels, height, width] = self.shape;
        self.shape = [channels, height / 2, width / 2];
        let half = vec![0.5; channels];
        self.scaled(&half)
    }

    /// The change of the sum of two values.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        self.summands.extend(other.summands);
        self
    }

    fn constant(&self) -> f64 {
        let of = |s: &Summand| widest(&s.scale) * s.amounts.first().copied().unwrap_or(0.0);
        self.summands.iter().map(of).sum()
    }
}

/// The largest absolute value of the factors.
pub(crate) fn widest(scale: &[f64]) -> f64 {
    scale.iter().fold(0.0, |m, s| largest(m, s.abs()))
}

fn add(sum: &mut Vec<f64>, amounts: &[f64], factor: f64) {
    if sum.len() < amounts.len() {
        sum.resize(amounts.len(), 0.0);
    }
    let pairs = sum.iter_mut().zip(amounts);
    pairs.for_each(|(sum, amount)| *sum += factor * amount);
}

/// Follows a network from its input to its head.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    parts: Vec<PartConstant>,
    errors: Vec<f64>,
}

impl Chain {
    /// Records the constant up to this part.
    pub(crate) fn note(&mut self, name: &str, x: &Change) {
        self.parts.push(PartConstant {
            name: name.into(),
            constant: x.constant(),
        });
    }

    /// Adds the error of an equilibrium's own solve to the change x of its state. `error` is the
    /// factor of its residual.
    pub(crate) fn equilibrium(&mut self, name: &str, mut x: Change, error: f64) -> Change {
        self.note(name, &x);
        self.errors.push(error);
        let index = self.errors.len();
        let mut amounts = vec![0.0; index + 1];
        amounts[index] = 1.0;
        for summand in x.summands.iter_mut().take(1) {
            add(&mut summand.amounts, &amounts, 1.0);
        }
        x
    }

    /// The constants of the network.
    pub(crate) fn finish(
        self,
        classes: usize,
        reads: Vec<Read>,
    ) -> Result<Lipschitz, LipschitzError> {
        let culprit = self.parts.iter().find(|part| !part.constant.is_finite());
        if let Some(PartConstant { name, .. }) = culprit {
            return Err(LipschitzError::NotFinite { part: name.clone() });
        }
        let mut distances = reads.iter().flat_map(|read| &read.distances);
        if !distances.all(|distance| distance.is_finite()) {
            return Err(LipschitzError::NotFinite {
                part: "head".into(),
            });
        }
        Ok(Lipschitz {
            classes,
            reads,
            errors: self.errors,
            parts: self.parts,
        })
    }
}
