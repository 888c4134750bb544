//! The constants of a nonnegative coding.

use super::{Coding, Dictionary};
use crate::lipschitz::{LipschitzError, Stability, coding_gain, must_solve, widest};
use crate::models::parts::convolution_bound;
use crate::norm::BoundedKernel;
use crate::norm_bound::{convolution_norm_bound, largest, matrix_norm_bound};
use crate::terms::Setting;

impl Coding {
    /// A Lipschitz constant of the codes of all branches with respect to inputs g of this height
    /// and width: at most [`coding_gain`], times the kernel's side for patches.
    pub fn lipschitz(&self, size: [usize; 2]) -> f64 {
        let input = match &self.dictionary {
            Dictionary::Patches(patches) => patches.weight.val().dims()[1],
            // One channel of the input for each output of the first kernel.
            Dictionary::Kernels(kernels) => kernels.first().map_or(1, |k| k.weight.val().dims()[0]),
        };
        self.gain(&vec![1.0; input], size)
    }

    /// The gain in |dz| <= gain |dg| for inputs g of this size whose channels are scaled by
    /// `scale`.
    pub(crate) fn gain(&self, scale: &[f64], [height, width]: [usize; 2]) -> f64 {
        let mu = self.config.mu;
        let norm = self.dictionary_norm([height, width]);
        let gain = coding_gain(norm, mu) * widest(scale);
        let Dictionary::Patches(patches) = &self.dictionary else {
            return gain;
        };
        // A pixel is in as many patches as there are centres around it.
        let k = self.config.kernel;
        let patches_of = (k.min(height) * k.min(width)) as f64;
        let gain = gain * patches_of.sqrt();
        // The other bound uses the norm of the convolution, which is seldom below that of a patch.
        if norm * widest(scale) / mu >= gain {
            return gain;
        }
        let [weight, _] = patches.normalised();
        let ones = vec![1.0; weight.dims()[0]];
        let conv = convolution_bound(weight, [scale, &ones], [height, width], [1, 1]);
        gain.min(conv / mu)
    }

    /// What the objective guarantees about the codes, apart from [`gain`](Self::gain).
    pub(crate) fn stability(
        &self,
        size: [usize; 2],
        layer: &str,
    ) -> Result<Stability, LipschitzError> {
        must_solve(&self.config.equilibrium, layer)?;
        // For patches, terms take the norm over all branches, otherwise that of one branch.
        let kernel_norm = match &self.dictionary {
            Dictionary::Patches(_) => self.dictionary_norm(size),
            Dictionary::Kernels(_) => self.norms(size).into_iter().fold(0.0, largest),
        };
        let setting = Setting {
            branches: self.channels.len(),
            kernel_norm,
        };
        self.objective.stability(&setting, layer)
    }

    /// Bound on the norm of the dictionary of all branches.
    fn dictionary_norm(&self, size: [usize; 2]) -> f64 {
        match &self.dictionary {
            Dictionary::Patches(patches) => {
                let [weight, _] = patches.normalised();
                matrix_norm_bound(weight.flatten::<2>(1, 3))
            }
            Dictionary::Kernels(_) => {
                let squares = self.norms(size).into_iter().map(|norm| norm * norm);
                squares.sum::<f64>().sqrt()
            }
        }
    }

    /// Bounds on the norms of the kernels of the branches; none for patches.
    fn norms(&self, size: [usize; 2]) -> Vec<f64> {
        let Dictionary::Kernels(kernels) = &self.dictionary else {
            return Vec::new();
        };
        let kernels = BoundedKernel::kernels(kernels).into_iter().enumerate();
        kernels
            .map(|(i, kernel)| convolution_norm_bound(kernel, size.map(|n| n >> i), [1, 1]))
            .collect()
    }
}
