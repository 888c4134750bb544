//! Masks for dropout inside an equilibrium.

use burn::tensor::{Distribution, Tensor, TensorCreationOptions};

/// A dropout mask: each entry is 0 with the given probability and 1 / (1 - probability) otherwise.
///
/// `Dropout` inside f would draw a new mask at every evaluation, so there would be no fixed point.
/// It also turns itself off while the solver works. Draw one mask per training step instead and
/// pass it to f in x (variational dropout: Gal and Ghahramani 2016, arXiv:1512.05287). In
/// evaluation, pass ones or `None`. Dimensions of size 1 broadcast: `[batch, channels, 1, 1]` drops
/// whole channels.
///
/// A probability outside 0 to 1 counts as the nearest bound. 1 drops everything.
///
/// # Shapes
///
/// The mask has the given shape.
///
/// # Example
///
/// ```
/// use burn::prelude::*;
/// use burn_deq::{EquilibriumConfig, dropout_mask};
///
/// # let device = Device::flex();
/// let x = Tensor::<2>::ones([2, 4], &device);
/// let mask = dropout_mask([2, 4], 0.25, &device);
/// let f = |z: Tensor<2>, (x, mask): (Tensor<2>, Tensor<2>)| (z * 0.5 + x).tanh() * mask;
/// let out = EquilibriumConfig::new().init().solve_map(&f, (x.clone(), mask), x);
/// assert!(out.forward.all_converged());
/// ```
pub fn dropout_mask<const D: usize>(
    shape: [usize; D],
    probability: f64,
    options: impl Into<TensorCreationOptions>,
) -> Tensor<D> {
    let keep = 1.0 - probability.clamp(0.0, 1.0);
    let mask = Tensor::random(shape, Distribution::Bernoulli(keep), options);
    if keep > 0.0 { mask / keep } else { mask }
}
