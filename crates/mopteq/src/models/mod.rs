//! Models: optimization-induced equilibrium networks and networks for comparison.

mod coding;
pub(crate) mod core;
mod deep;
mod mdeq;
mod mopteqs;
pub mod multi_view;
mod network;
pub(crate) mod parts;
mod residual;
mod whitening;

use burn::tensor::Tensor;
use burn_deq::{AdjointMonitor, Report};

pub use self::coding::{Coding, CodingConfig, CodingForm};
pub use self::core::{Core, CoreConfig, Family};
pub use deep::{Deep, DeepConfig, LayerConfig, LayerState, StageConfig};
pub use mdeq::{Mdeq, MdeqConfig};
pub use mopteqs::{MOptEqs, MOptEqsConfig};
pub use network::{Network, NetworkConfig, NetworkKind};
pub use parts::{Fusion, HeadConfig, StemConfig};
pub use residual::{Residual, ResidualConfig};

/// The output of a network for a batch, and the cost of its solves.
#[derive(Debug)]
pub struct Prediction {
    /// Unnormalised class scores, `[batch, classes]`.
    pub logits: Tensor<2>,
    /// Unnormalised class scores of every pixel of the finest branch, `[batch, dense classes, h, w]`,
    /// for models with a dense head.
    pub dense: Option<Tensor<4>>,
    /// The forward solve. With several solves, the [worst](Report::worst) for each sample. It has
    /// no samples for an explicit network.
    pub forward: Report,
    /// The backward solve, once `backward()` has run. With several solves, the worst.
    pub adjoint: AdjointMonitor,
    /// The solves of a network with several equilibria, in the order of the data.
    pub layers: Vec<LayerSolve>,
}

/// The forward and the backward solve of one of several equilibria.
#[derive(Clone, Debug)]
pub struct LayerSolve {
    /// The equilibrium's name in reports.
    pub name: String,
    /// The forward solve.
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
