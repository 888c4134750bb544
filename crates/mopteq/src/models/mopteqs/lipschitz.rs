//! The Lipschitz constants of a MOptEq.

use burn::tensor::Tensor;

use super::model::MOptEqs;
use crate::lipschitz::{Chain, Change, Lipschitz, LipschitzError, Solved};
use crate::models::parts::injections_bound;

/// Name of the only equilibrium in messages and reports.
const NAME: &str = "equilibrium";

impl MOptEqs {
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    ///
    /// # Errors
    ///
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    pub fn lipschitz(&self, scale: &[f64]) -> Result<Lipschitz, LipschitzError> {
        let config = &self.config;
        let [height, width] = config.input_size;
        let (finest, sizes) = (config.finest(), config.sizes());
        let mut chain = Chain::default();
        let x = Change::of_pictures([config.input_channels, height, width], scale)?;
        let g = self.stem.lipschitz(&mut chain, &x, finest);
        let stability = self.core.stability(&sizes, NAME)?;
        // The branches have different shapes but move together, so only their joint length matters.
        let shape = [config.core.channels, finest[0], finest[1]];
        let gain = |scale: &[f64]| {
            stability.gain * injections_bound(&self.injections, &sizes, scale, finest)
        };
        let z = chain.equilibrium(NAME, g.through(shape, gain), stability.error);
        let scales = vec![vec![1.0; config.core.channels]; sizes.len()];
        let reads = z.summands.into_iter();
        let reads = reads.map(|summand| self.head.read(&sizes, &scales, summand.amounts));
        chain.finish(config.classes, reads.collect())
    }

    /// As [`Network::solved`](crate::Network::solved).
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn solved(&self, images: Tensor<4>) -> Solved {
        let context = self.context(images);
        let state = self.equilibrium(&context).state;
        let residual = self.core.objective().residual(&state, &context);
        Solved {
            logits: self.head.classify(&state),
            residuals: vec![residual],
        }
    }
}
