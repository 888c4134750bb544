//! Inner products and concatenation.

use burn::tensor::{DType, Tensor};

use crate::{cpu, gradient};

/// Inner product of each sample: `[batch, n], [batch, n] -> [batch, 1]`.
pub fn inner(x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    cpu::vectors::inner(&x, &y).unwrap_or_else(|| (x * y).sum_dim(1))
}

/// Like [`inner`], over the elements where `within` is 1, if it is given.
pub fn inner_within(within: Option<&Tensor<2>>, x: Tensor<2>, y: Tensor<2>) -> Tensor<2> {
    match within {
        Some(within) => inner(x * within.clone(), y),
        None => inner(x, y),
    }
}

/// Sum of squares over all dimensions except the batch: `[batch, n] -> [batch, 1]`.
pub fn square_norm(x: Tensor<2>) -> Tensor<2> {
    inner(x.clone(), x)
}

/// |r|^2 and |f|^2, `[batch, 2]`.
pub fn squares(r: &Tensor<2>, f: &Tensor<2>) -> Tensor<2> {
    Tensor::cat([r, f].map(|x| square_norm(x.clone())).to_vec(), 1)
}

/// |x - y|^2 of each sample: `[batch, n], [batch, n] -> [batch, 1]`.
pub fn square_distance(x: &Tensor<2>, y: &Tensor<2>) -> Tensor<2> {
    cpu::vectors::square_distance(x, y).unwrap_or_else(|| square_norm(x.clone() - y.clone()))
}

/// a / b, or 0 if b is not positive.
pub fn ratio(a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    let bad = b.clone().greater_elem(0.0).bool_not();
    (a / b).mask_fill(bad, 0.0)
}

/// Rounding error of a difference of two residuals, relative to the length of their states: a unit
/// in the last place of each z and each f. A map's own arithmetic adds more.
pub fn rounding(dtype: DType) -> f64 {
    4.0 * dtype.finfo().map_or(f64::EPSILON, |info| info.epsilon)
}

/// Concatenates tensors along a dimension.
pub fn join(parts: Vec<Tensor<2>>, dim: usize) -> Tensor<2> {
    if let [a, b] = &parts[..]
        && dim == 1
        && (a.is_autodiff() || b.is_autodiff())
    {
        // Burn joins on one core, and its gradient of a part is a view that is copied later.
        let values = parts.iter().map(|part| part.clone().without_autodiff());
        let joined = join(values.collect(), dim);
        let widths = [a, b].map(|part| part.dims()[1]);
        let none = Tensor::<1>::zeros([1], &joined.device());
        let inputs = (a.clone(), b.clone(), none);
        return gradient::custom_gradient(inputs, joined, move |g: Tensor<2>, wanted| {
            let mut parts = wanted.into_iter().zip(split(g, &widths));
            let mut next = || {
                parts
                    .next()
                    .and_then(|(wanted, part)| wanted.then_some(part))
            };
            (next(), next(), None)
        });
    }
    cpu::vectors::join(&parts, dim).unwrap_or_else(|| Tensor::cat(parts, dim))
}

/// Splits the columns of a tensor into parts of these widths.
pub fn split(x: Tensor<2>, widths: &[usize]) -> Vec<Tensor<2>> {
    if x.is_autodiff() {
        // Burn's gradient of a slice fills a tensor of zeros, once per part.
        let values = split(x.clone().without_autodiff(), widths);
        return gradient::parts(x, values, |gradients| join(gradients, 1));
    }
    let parts = cpu::vectors::split(&x, widths);
    parts.unwrap_or_else(|| x.split_with_sizes(widths.to_vec(), 1))
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;

    #[test]
    fn joined_tensors_have_the_gradient_of_concatenation() {
        let device = Device::flex();
        device.seed(3);
        let random = |n: usize| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<2>::random([3, n], normal, (&device, DType::F64))
        };
        let (values, weight) = ([2, 5].map(random), random(7));
        for tracked in [[true, true], [true, false], [false, true]] {
            let gradients = |join: fn(Vec<Tensor<2>>) -> Tensor<2>| {
                let track = |(x, tracked): (&Tensor<2>, bool)| {
                    let x = x.clone().autodiff();
                    if tracked { x.require_grad() } else { x }
                };
                let inputs: Vec<_> = values.iter().zip(tracked).map(track).collect();
                let joined = join(inputs.iter().map(|x| x.clone() * 2.0).collect());
                let loss = (joined.clone() * joined * weight.clone().autodiff()).sum();
                let gradients = loss.backward();
                let of = inputs
                    .iter()
                    .map(|x| x.grad(&gradients).map(Tensor::into_data));
                of.collect::<Vec<_>>()
            };
            let found = gradients(|parts| join(parts, 1));
            let expected = gradients(|parts| Tensor::cat(parts, 1));
            for ((found, expected), tracked) in found.iter().zip(&expected).zip(tracked) {
                assert_eq!(found.is_some(), tracked);
                if let (Some(found), Some(expected)) = (found, expected) {
                    let tolerance = burn::tensor::Tolerance::absolute(1e-13);
                    found.assert_approx_eq::<f64>(expected, tolerance);
                }
            }
        }
    }

    #[test]
    fn parts_have_the_gradient_of_slices() {
        let device = Device::flex();
        device.seed(2);
        let random = |n: usize| {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<2>::random([3, n], normal, (&device, DType::F64))
        };
        let widths = [2, 5, 4];
        let x = random(11);
        let weights = widths.map(random);
        // The loss may not depend on every part.
        for used in [vec![0, 1, 2], vec![1], vec![0, 2]] {
            let gradient = |parts: fn(Tensor<2>, &[usize]) -> Vec<Tensor<2>>| {
                let x = x.clone().autodiff().require_grad();
                let parts = parts(x.clone() * 2.0, &widths);
                let terms = used.iter().map(|i| {
                    let part = parts[*i].clone();
                    (part.clone() * part * weights[*i].clone().autodiff()).sum()
                });
                let loss = terms.reduce(|a, b| a + b).expect("a part");
                x.grad(&loss.backward()).expect("a gradient").into_data()
            };
            let slices = |x: Tensor<2>, widths: &[usize]| x.split_with_sizes(widths.to_vec(), 1);
            let tolerance = burn::tensor::Tolerance::absolute(1e-13);
            gradient(split).assert_approx_eq::<f64>(&gradient(slices), tolerance);
        }
    }
}
