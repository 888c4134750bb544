//! Models: optimization-induced equilibrium networks and networks for comparison.

pub(crate) mod core;
mod mdeq;
mod mopteqs;
mod multi_view;
mod network;
pub(crate) mod parts;
mod residual;

use burn::tensor::Tensor;
use burn_deq::{AdjointMonitor, Report};

pub use self::core::{Core, CoreConfig, Family};
pub use mdeq::{Mdeq, MdeqConfig};
pub use mopteqs::{MOptEqs, MOptEqsConfig};
pub use multi_view::{MultiView, MultiViewConfig, View, ViewInput};
pub use network::{Network, NetworkConfig, NetworkKind};
pub use parts::Fusion;
pub use residual::{Residual, ResidualConfig};

/// The output of a network for a batch, and the cost of the solve.
#[derive(Debug)]
pub struct Prediction {
    /// Unnormalised class scores, `[batch, classes]`.
    pub logits: Tensor<2>,
    /// Unnormalised class scores of every pixel of the finest branch, `[batch, dense classes, h, w]`,
    /// for models with a dense head.
    pub dense: Option<Tensor<4>>,
    /// The forward solve; without samples for an explicit network.
    pub forward: Report,
    /// The backward solve, once `backward()` has run.
    pub adjoint: AdjointMonitor,
}

/// # Panics
///
/// Panics if the pictures do not have this shape.
fn check_pictures(images: &Tensor<4>, channels: usize, [height, width]: [usize; 2]) {
    let [_, c, h, w] = images.dims();
    assert!(
        [c, h, w] == [channels, height, width],
        "the model takes pictures of shape [{channels}, {height}, {width}], not [{c}, {h}, {w}]"
    );
}
