//! The Lipschitz constants of a stack.

use burn::tensor::Tensor;

use super::layer::{Implicit, Layer};
use super::{Deep, Flow};
use crate::lipschitz::{Chain, Change, Lipschitz, LipschitzError, Solved};
use crate::models::parts::norm_scale;

impl Flow for Chain {
    type Value = Change;

    fn halve(&mut self, x: Change) -> Change {
        x.halved()
    }

    fn shape(&self, x: &Change) -> [usize; 3] {
        x.shape
    }

    fn add(&mut self, a: Change, b: Change) -> Change {
        a.plus(b)
    }
}

impl Layer {
    /// The change of the layer's output from the change of its input.
    fn lipschitz(
        &self,
        chain: &mut Chain,
        name: &str,
        x: &Change,
    ) -> Result<Change, LipschitzError> {
        let [_, height, width] = x.shape;
        let size = [height, width];
        let scale = norm_scale(&self.norm);
        let shape = [scale.len(), height, width];
        let (stability, state) = match &self.implicit {
            Implicit::Coding(coding) => (
                coding.stability(size, name)?,
                x.through(shape, |scale| coding.gain(scale, size)),
            ),
            Implicit::Core(free) => {
                let sizes = free.sizes(size);
                let stability = free.core.stability(&sizes, name)?;
                let gain = |scale: &[f64]| stability.gain * free.injected(scale, size);
                (stability, x.through(shape, gain))
            }
        };
        // Resampling codes to the resolution of the first branch keeps their length.
        let state = chain.equilibrium(name, state, stability.error);
        Ok(state.scaled(&scale))
    }
}

impl Deep {
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    ///
    /// # Errors
    ///
    /// As [`Network::lipschitz`](crate::Network::lipschitz).
    pub fn lipschitz(&self, scale: &[f64]) -> Result<Lipschitz, LipschitzError> {
        let config = &self.config;
        let [height, width] = config.input_size;
        let shape = [config.input_channels, height, width];
        let mut chain = Chain::default();
        let x = Change::of_pictures(shape, scale)?;
        let x = self
            .stem
            .lipschitz(&mut chain, &x, config.stem.output([height, width]));
        let outputs = self.walk(&mut chain, x, |chain, name, layer, x| {
            layer.lipschitz(chain, &name, &x)
        })?;
        let reads = outputs.last().map(|x| self.head.reads(x));
        chain.finish(config.classes, reads.unwrap_or_default())
    }

    /// As [`Network::solved`](crate::Network::solved).
    ///
    /// # Panics
    ///
    /// Panics if the pictures do not have the configured shape.
    pub fn solved(&self, images: Tensor<4>) -> Solved {
        let mut residuals = Vec::new();
        let outputs = self.run(images, |_, layer, input| {
            let state = layer.equilibrium(input.clone()).state;
            let context = layer.context(input);
            residuals.push(layer.objective().residual(&state, &context));
            state
        });
        Solved {
            logits: self.head.classify(&outputs[outputs.len() - 1..].to_vec()),
            residuals,
        }
    }
}
