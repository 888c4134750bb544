//! What an objective depends on, as values of a graph.

use burn::tensor::Tensor;
use deq_kernels::convolution::transposed;

use super::{Builder, Combination, Value};

/// The block operator W and the injections c of a [`Context`](crate::Context), as constants and
/// values of a graph.
#[derive(Clone, Debug)]
pub struct Operands {
    /// W_i, `[hidden, channels, k, k]`.
    pub kernels: Vec<Tensor<4>>,
    /// The kernels between branches.
    pub cross: Vec<CrossOperand>,
    /// c_i.
    pub injections: Vec<Value>,
}

/// A kernel W_ij between branches.
#[derive(Clone, Debug)]
pub struct CrossOperand {
    /// i, the branch that receives.
    pub to: usize,
    /// j, the branch that sends.
    pub from: usize,
    /// W_ij.
    pub kernel: Tensor<4>,
}

fn size(graph: &Builder, value: Value) -> [usize; 2] {
    let [_, height, width] = graph.picture(value);
    [height, width]
}

impl Operands {
    /// W z, as [`Context::w`](crate::Context::w).
    pub fn w(&self, graph: &mut Builder, z: &[Value]) -> Vec<Combination> {
        let own = z.iter().zip(&self.kernels);
        let mut a: Vec<Combination> = own
            .map(|(z, kernel)| vec![(1.0, graph.convolve(*z, kernel.clone()))])
            .collect();
        for cross in &self.cross {
            let message = graph.convolve(z[cross.from], cross.kernel.clone());
            let to = size(graph, z[cross.to]);
            a[cross.to].push(graph.resample(message, to));
        }
        a
    }

    /// W'h, as [`Context::w_transposed`](crate::Context::w_transposed).
    pub fn w_transposed(&self, graph: &mut Builder, h: &[Value]) -> Vec<Combination> {
        let own = h.iter().zip(&self.kernels);
        let mut z: Vec<Combination> = own
            .map(|(h, kernel)| vec![(1.0, graph.convolve(*h, transposed(kernel.clone())))])
            .collect();
        for cross in &self.cross {
            let to = size(graph, h[cross.from]);
            let (factor, message) = graph.resample(h[cross.to], to);
            let kernel = transposed(cross.kernel.clone()) * factor;
            z[cross.from].push((1.0, graph.convolve(message, kernel)));
        }
        z
    }

    /// W z as values.
    pub(crate) fn w_values(&self, graph: &mut Builder, z: &[Value]) -> Vec<Value> {
        let sums = self.w(graph, z);
        sums.iter().map(|sum| graph.combine(sum)).collect()
    }
}
