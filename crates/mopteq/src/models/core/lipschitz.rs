//! The constants of the implicit part of all optimization-induced models.

use super::Core;
use crate::lipschitz::{LipschitzError, Stability, must_solve};
use crate::norm_bound::{convolution_norm_bound, largest};
use crate::terms::Setting;

impl Core {
    /// What the objective guarantees about the equilibrium of branches of these sizes. It applies
    /// to W in the type of the parameters, whatever
    /// [`CoreConfig::precision`](super::CoreConfig::precision) is.
    pub(crate) fn stability(
        &self,
        sizes: &[[usize; 2]],
        layer: &str,
    ) -> Result<Stability, LipschitzError> {
        must_solve(&self.config.equilibrium, layer)?;
        let own = self.kernels.iter().zip(sizes);
        let own = own.map(|(k, size)| convolution_norm_bound(k.kernel(), *size, [1, 1]));
        let own = own.fold(0.0, largest);
        // The norm of all blocks between branches is at most the length of the vector of their
        // norms.
        let cross = self.cross.iter().map(|c| {
            let size = sizes.get(c.from).copied().unwrap_or([1, 1]);
            convolution_norm_bound(c.kernel.kernel(), size, [1, 1]).powi(2)
        });
        let setting = Setting {
            branches: sizes.len(),
            kernel_norm: own + cross.sum::<f64>().sqrt(),
        };
        self.objective.stability(&setting, layer)
    }
}
