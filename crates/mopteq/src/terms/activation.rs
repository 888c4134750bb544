//! The activation potential, whose gradient is a layer.

use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softplus};

use super::{ActivationConfig, Curvature, Formula, Hessian, Setting, Term};
use crate::context::{Branches, Context, indicator, map_branches, multiply, sum_samples};
use crate::graph::{Builder, Combination, Op, Operands, Value};

/// A non-decreasing, 1-Lipschitz scalar function, applied elementwise, with its antiderivative.
///
/// An OptEq requires this of its activation (arXiv:2105.13228), because W'sigma(Wz + c) is then the
/// gradient of a convex potential.
pub trait Activation: Debug + Send + Sync {
    /// The activation's name in reports.
    fn name(&self) -> &str;

    /// s(a), with s' the activation.
    fn potential(&self, a: Tensor<4>) -> Tensor<4>;

    /// s'(a), the activation itself.
    fn activate(&self, a: Tensor<4>) -> Tensor<4>;

    /// s''(a), between 0 and 1; at a kink, either one-sided derivative.
    fn slope(&self, a: Tensor<4>) -> Tensor<4>;

    /// The configuration, if the crate provides this activation.
    fn config(&self) -> Option<ActivationConfig> {
        None
    }
}

/// 1 for a > 0, otherwise 0.
fn positive(a: &Tensor<4>) -> Tensor<4> {
    indicator(a.clone().greater_elem(0.0), a)
}

/// Coefficients of y^(n+1) for n = 0, 1, 2, 4, ..., 14 in the series of -Li_2(-x) in
/// y = ln(1 + x): (-1)^n B_n / (n + 1)!, with B_n the Bernoulli numbers.
const DILOGARITHM: [f64; 9] = [
    1.0,
    1.0 / 4.0,
    1.0 / 36.0,
    -1.0 / 3600.0,
    1.0 / 211_680.0,
    -1.0 / 10_886_400.0,
    5.0 / (66.0 * 39_916_800.0),
    -691.0 / (2730.0 * 6_227_020_800.0),
    7.0 / (6.0 * 1_307_674_368_000.0),
];

/// -Li_2(-e^a). For a <= 0, the series of Debye's function in y = ln(1 + e^a) <= ln 2, which is
/// exact to 1e-16 there. For a > 0, the inversion formula s(a) = a^2/2 + pi^2/6 - s(-a).
fn softplus_potential(a: Tensor<4>) -> Tensor<4> {
    // min(a, -a): unlike -|a|, Burn differentiates it at every a except 0.
    let negative = a.clone().min_pair(-a.clone());
    let y = softplus(negative, 1.0);
    let square = y.clone() * y.clone();
    let [linear, quadratic, cubic @ ..] = DILOGARITHM;
    // Horner in y^2, from the highest power; all from y^3 on are odd.
    let odd = cubic
        .iter()
        .rev()
        .fold(y.zeros_like(), |sum, c| sum * square.clone() + *c);
    let series = y.clone() * linear + square.clone() * quadratic + odd * square * y;
    let above = positive(&a);
    let square = a.clone() * a * 0.5 + std::f64::consts::PI.powi(2) / 6.0;
    // Selected by arithmetic instead of a mask, because everything is finite here if a is.
    series.clone() + above * (square - series * 2.0)
}

impl Activation for ActivationConfig {
    fn config(&self) -> Option<ActivationConfig> {
        Some(*self)
    }

    fn name(&self) -> &str {
        match self {
            Self::Relu => "relu",
            Self::LeakyRelu { .. } => "leaky relu",
            Self::Softplus => "softplus",
            Self::Tanh => "tanh",
        }
    }

    fn potential(&self, a: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Relu => {
                let h = a.clamp_min(0.0);
                h.clone() * h * 0.5
            }
            Self::LeakyRelu { .. } => a.clone() * self.activate(a) * 0.5,
            Self::Softplus => softplus_potential(a),
            Self::Tanh => {
                // ln cosh(a) = |a| + ln(1 + e^(-2|a|)) - ln 2 without overflow, with |a| = 2 max(a,
                // 0) - a.
                let size = a.clone().clamp_min(0.0) * 2.0 - a;
                softplus(size.clone() * -2.0, 1.0) + size - std::f64::consts::LN_2
            }
        }
    }

    fn activate(&self, a: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Relu => a.clamp_min(0.0),
            Self::LeakyRelu { slope } => a.clone().clamp_min(0.0) + a.clamp_max(0.0) * *slope,
            Self::Softplus => softplus(a, 1.0),
            Self::Tanh => a.tanh(),
        }
    }

    fn slope(&self, a: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Relu => positive(&a),
            Self::LeakyRelu { slope } => positive(&a) * (1.0 - slope) + *slope,
            Self::Softplus => sigmoid(a),
            Self::Tanh => {
                let h = a.tanh();
                -(h.clone() * h) + 1.0
            }
        }
    }
}

/// -1's(W z + c): concave, and its gradient -W's'(W z + c) is the layer of an OptEq
/// (arXiv:2105.13228).
#[derive(Clone, Debug)]
pub struct ActivationPotential {
    /// Provides s, s' and s''.
    pub activation: Arc<dyn Activation>,
}

impl Default for ActivationPotential {
    fn default() -> Self {
        Self::new(ActivationConfig::Relu)
    }
}

impl ActivationPotential {
    /// The potential of one of the crate's activations or of a custom one.
    pub fn new(activation: impl Activation + 'static) -> Self {
        Self {
            activation: Arc::new(activation),
        }
    }
}

impl Term for ActivationPotential {
    fn name(&self) -> &str {
        "activation potential"
    }

    fn value(&self, z: &Branches, x: &Context) -> Tensor<1> {
        let a = x.preactivation(z);
        -sum_samples(a.into_iter().map(|a| self.activation.potential(a)))
    }

    fn gradient(&self, z: &Branches, x: &Context) -> Branches {
        let h = map_branches(&x.preactivation(z), |a| self.activation.activate(a));
        map_branches(&x.w_transposed(&h), |t| -t)
    }

    fn hessian(&self, z: &Branches, x: &Context) -> Option<Hessian> {
        let slopes = map_branches(&x.preactivation(z), |a| -self.activation.slope(a));
        let x = x.clone();
        Some(Box::new(move |u| {
            x.w_transposed(&multiply(x.w(u), &slopes))
        }))
    }

    fn curvature(&self, setting: &Setting) -> Curvature {
        Curvature::new(-setting.kernel_norm * setting.kernel_norm, 0.0)
    }

    fn injection_gain(&self, setting: &Setting) -> Option<f64> {
        // The gradient is -W's'(W z + c), and s' is 1-Lipschitz.
        Some(setting.kernel_norm)
    }

    fn formula(&self) -> Option<Formula> {
        self.activation.config().map(Formula::ActivationPotential)
    }

    fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        x: &Operands,
    ) -> Option<Vec<Combination>> {
        let function = match self.activation.config()? {
            ActivationConfig::Relu => Op::Relu,
            ActivationConfig::LeakyRelu { slope } => Op::LeakyRelu(slope),
            ActivationConfig::Softplus => Op::Softplus,
            ActivationConfig::Tanh => Op::Tanh,
        };
        let sums = x.w(graph, z).into_iter().zip(&x.injections);
        let activate = |(mut sum, c): (Combination, &Value)| {
            sum.push((1.0, *c));
            let a = graph.combine(&sum);
            graph.function(function.clone(), a)
        };
        let h: Vec<Value> = sums.map(activate).collect();
        let mut gradient = x.w_transposed(graph, &h);
        for (factor, _) in gradient.iter_mut().flatten() {
            *factor = -*factor;
        }
        Some(gradient)
    }
}
