//! The Lipschitz constants of an explicit residual network: the product of those of its layers.

use super::Residual;
use crate::lipschitz::{Chain, Change, Lipschitz, LipschitzError};
use crate::models::parts::block;

impl Residual {
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    ///
    /// # Errors
    ///
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    pub fn lipschitz(&self, scale: &[f64]) -> Result<Lipschitz, LipschitzError> {
        let config = &self.config;
        let [height, width] = config.input_size;
        let mut chain = Chain::default();
        let x = Change::of_pictures([config.input_channels, height, width], scale)?;
        let finest = config.stem.output([height, width]);
        let mut x = self.stem.lipschitz(&mut chain, &x, finest);
        let (mut sizes, mut reads) = (Vec::new(), Vec::new());
        for i in 0..self.stages.len() {
            sizes.push(finest.map(|n| n >> i));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            if i > 0 {
                x = x.halved();
            }
            for (k, b) in stage.iter().enumerate() {
                let first = (&b.first, &b.first_norm);
                x = block(&x, [first, (&b.second, &b.second_norm)]);
                chain.note(&format!("stage {}, block {}", i + 1, k + 1), &x);
            }
            // The head reads every stage. Each stage moves on its own, so the bounds add up.
            for summand in &x.summands {
                let mut scales = vec![Vec::new(); sizes.len()];
                scales[i] = summand.scale.clone();
                reads.push(self.head.read(&sizes, &scales, summand.amounts.clone()));
            }
        }
        chain.finish(config.classes, reads)
    }
}
