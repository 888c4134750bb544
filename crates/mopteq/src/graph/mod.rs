//! A network for inference as a list of operations that other programs can run.
//!
//! [`Network::graph`](crate::Network::graph) creates it. The kernels are bounded, and batch norms
//! are folded into the convolutions before them. An equilibrium is one operation,
//! [`Op::Iterate`], which holds the map z -> f(z) as a list of its own. Operations that do not
//! depend on the state come before it. A network with several equilibria has one such operation for
//! each.
//!
//! Nothing here depends on a file format. The crate `mopteq-train` writes these graphs as ONNX.

mod builder;
mod operands;

use burn::tensor::Tensor;
use burn_deq::Termination;

pub use builder::Builder;
pub use operands::{CrossOperand, Operands};

/// A tensor that flows through a graph: a picture, features, a branch of a state. The batch is its
/// first dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(usize);

impl Value {
    /// Its index, counted from 0.
    pub fn index(self) -> usize {
        self.0
    }
}

/// A weighted sum of values.
pub type Combination = Vec<(f64, Value)>;

/// What a node computes. Shapes leave out the batch.
#[derive(Clone, Debug)]
pub enum Op {
    /// All zeros in the shape of the output.
    Zeros,
    /// A convolution with zero padding.
    Convolution {
        /// `[out, in, k, k]`.
        weight: Tensor<4>,
        /// `[out]`.
        bias: Option<Tensor<1>>,
        /// Vertical and horizontal stride.
        stride: [usize; 2],
        /// Zeros above and below, left and right.
        padding: [usize; 2],
    },
    /// scale * x + shift, for each channel.
    Affine {
        /// `[channels]`.
        scale: Tensor<1>,
        /// `[channels]`.
        shift: Tensor<1>,
    },
    /// Group norm.
    GroupNorm {
        /// Number of groups.
        groups: usize,
        /// `[channels]`.
        scale: Tensor<1>,
        /// `[channels]`.
        shift: Tensor<1>,
        /// Added to the variance.
        epsilon: f64,
    },
    /// D'D x, where D are the differences between neighbouring pixels: the Laplacian of the pixel
    /// grid with free borders.
    Laplacian,
    /// max(x, 0).
    Relu,
    /// max(x, 0) + slope * min(x, 0).
    LeakyRelu(f64),
    /// ln(1 + e^x).
    Softplus,
    /// tanh(x).
    Tanh,
    /// x limited to an interval.
    Clamp {
        /// Smallest value.
        low: f64,
        /// Largest value.
        high: f64,
    },
    /// x times a number.
    Scale(f64),
    /// x plus a number.
    Shift(f64),
    /// a + b.
    Add,
    /// a - b.
    Subtract,
    /// The means of windows that do not overlap.
    AveragePool {
        /// Height and width of a window.
        window: [usize; 2],
    },
    /// The means over the cells of a coarser grid. Cell i of n covers the pixels from
    /// floor(i * size / n) to ceil((i + 1) * size / n).
    MeanPool {
        /// Height and width of the grid.
        grid: [usize; 2],
    },
    /// Repeats each pixel.
    Upsample {
        /// Vertical and horizontal factor.
        factors: [usize; 2],
    },
    /// `[channels, height, width]` as one vector.
    Flatten,
    /// Concatenates vectors, or the channels of pictures.
    Concat,
    /// x W + b.
    Linear {
        /// `[in, out]`.
        weight: Tensor<2>,
        /// `[out]`.
        bias: Option<Tensor<1>>,
    },
    /// A fixed-point iteration z -> f(z). Its inputs are f(0), one value per branch. Its outputs
    /// are the equilibrium.
    Iterate(Iterate),
}

/// The map of an equilibrium and the stopping rule of its iteration.
#[derive(Clone, Debug)]
pub struct Iterate {
    /// z, one value per branch.
    pub state: Vec<Value>,
    /// f(z) as operations, in order. They may use values from before the iteration.
    pub nodes: Vec<Node>,
    /// f(z), one value per branch.
    pub image: Vec<Value>,
    /// The stopping rule of the network's own solver.
    pub rule: Termination,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it computes.
    pub op: Op,
    /// Its inputs.
    pub inputs: Vec<Value>,
    /// Its results; one, except for [`Op::Iterate`].
    pub outputs: Vec<Value>,
}

/// A network for inference.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The normalised pictures.
    pub input: Value,
    /// The operations, in order.
    pub nodes: Vec<Node>,
    /// The class scores.
    pub logits: Value,
    /// The class scores of each pixel, for models with a dense head.
    pub dense: Option<Value>,
    shapes: Vec<Vec<usize>>,
}

impl Graph {
    /// The shape of a value without the batch.
    pub fn shape(&self, value: Value) -> &[usize] {
        &self.shapes[value.0]
    }

    /// Number of values. Their indices are below it.
    pub fn values(&self) -> usize {
        self.shapes.len()
    }

    /// The equilibria, in order.
    pub fn equilibria(&self) -> impl Iterator<Item = &Iterate> {
        self.nodes.iter().filter_map(|node| match &node.op {
            Op::Iterate(iterate) => Some(iterate),
            _ => None,
        })
    }
}

/// A network that cannot be written as a [`Graph`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// A term of the hidden objective has no operations.
    #[error("the term `{0}` of the hidden objective cannot be written as operations of a graph")]
    Term(String),
    /// The constraint of the hidden objective has no operations.
    #[error("the constraint `{0}` cannot be written as operations of a graph")]
    Constraint(String),
}
