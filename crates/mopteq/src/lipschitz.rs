//! Lipschitz constants of networks, and the certificates that follow from them.
//!
//! The logits y of a network are Lipschitz in its input x if |y_j(x) - y_k(x) - y_j(x') + y_k(x')|
//! <= L_jk |x - x'| for all x and x'. Then no change of x that is shorter than
//!
//! ```text
//! radius = min over k != j of (y_j - y_k - e_jk) / L_jk
//! ```
//!
//! can change the likeliest class j. e_jk bounds the effect of the solve errors on y_j - y_k.
//!
//! L_jk is a product of factors along the network. All factors are in the Euclidean norm. Factors
//! per channel are folded into the next part if that part is linear:
//!
//! | part | factor |
//! |---|---|
//! | normalisation (x - mean) / std | 1 / std per channel, folded into the first kernel |
//! | convolution and the batch norm after it | [`crate::norm_bound::convolution_norm_bound`] of both |
//! | ReLU | 1 |
//! | mean pooling into cells of s x s pixels | 1/s |
//! | sum of a skip connection | the sum of the factors |
//! | equilibrium of a nonnegative coding | see below |
//! | equilibrium of another objective | gain / m |
//! | batch norm after an equilibrium | gamma / sqrt(variance + epsilon) per channel |
//! | pooling, batch norm and linear layer of the head | length of the vector that gives y_j - y_k |
//!
//! **Equilibria.** Let G(z; c) have a smooth part whose gradient g(z; c) is strongly monotone in z
//! with the constant m, and Lipschitz in the injection c with the constant `gain`
//! ([`Term::injection_gain`](crate::terms::Term::injection_gain)). For two injections c and c', the
//! minimisers z and z' satisfy `<g(z; c) - g(z'; c'), z - z'> <= 0`, because the subgradients of
//! the constraint are monotone. Hence m |z - z'|^2 <= `<g(z'; c') - g(z'; c), z - z'>` <= gain |c -
//! c'| |z - z'|, and
//!
//! ```text
//! |z - z'| <= gain / m |c - c'|
//! ```
//!
//! **Codings.** For z = argmin over z >= 0 of 1/2 |g - D z|^2 + mu/2 |z|^2 + l1'z, the same
//! argument gives more. Let a = |D dz|, b = |dz| and q = |dg|. Then a^2 + mu b^2 <= `<D dz, dg>` <=
//! a q, so mu b^2 <= a q - a^2 <= q^2 / 4. If |D|^2 <= mu, this gives a <= |D| b <= q / 2. Up to
//! a = q / 2, a q - a^2 increases with a, so mu b^2 <= |D| b q - |D|^2 b^2. Hence
//!
//! ```text
//! |dz| <= |D| / (|D|^2 + mu) |dg|    if |D|^2 <= mu
//! |dz| <= 1 / (2 sqrt(mu)) |dg|      otherwise
//! ```
//!
//! A single code attains both bounds. A coding of patches sees each pixel in up to k^2 patches, so
//! its dg is at most k times as long as that of the picture. By `<D dz, dg> = <dz, D'dg>`, its
//! factor is also at most |conv| / mu, where conv is the convolution that injects. The smaller
//! factor applies.
//!
//! **Errors of solves.** Let T be the map, s its step, r = T(z) - z the residual at which a solve
//! stopped, y = T(z), and [l, u] the bounds on the curvature of the smooth part, with l = m. By the
//! definition of the proximal map, -g(z) - r/s is a subgradient of the constraint at y, and -g(z*)
//! is one at z*. They are monotone, so m |y - z*|^2 <= `<g(y) - g(z*), y - z*>` <= `<g(y) - g(z) -
//! r/s, y - z*>`. With the mean Hessian H between z and y, g(y) - g(z) - r/s = -(I - s H) r/s.
//! Hence
//!
//! ```text
//! |z - z*| <= |z - y| + |y - z*| <= (1 + max(|1 - s l|, |1 - s u|) / (s m)) |r|
//! ```
//!
//! This error propagates to the logits through the factors of the parts after the equilibrium.
//!
//! **What is not covered.** The constants hold for the network in exact arithmetic, with exact
//! equilibria. A network that stops its solves early or computes in f32 differs from it. Evaluate
//! the network in f64 to a small tolerance; [`Lipschitz::certificate`] then subtracts 1e-9 of the
//! largest logit for rounding. This is an allowance, not a proof.

mod chain;

use burn::serde::{Deserialize, Serialize};
use burn::tensor::Tensor;
use burn_deq::{Check, EquilibriumConfig, FixedPointMap};

use crate::context::{Branches, Context, half_square};
use crate::norm_bound::largest;
use crate::objective::HiddenObjective;
use crate::terms::{Curvature, Setting};

pub(crate) use chain::{Chain, Change, Summand, widest};

/// Allowance for rounding, relative to the largest logit.
const ROUNDING: f64 = 1e-9;

/// A network without a Lipschitz constant that the crate can prove.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LipschitzError {
    /// Nothing is guaranteed for this kind of network.
    #[error(
        "a network of the kind `{network}` has no Lipschitz constant that can be proved, because its \
         map is no gradient of a strongly convex objective; mopteq, opteq, deep and residual have one"
    )]
    Network {
        /// The kind.
        network: &'static str,
    },
    /// The terms do not make the objective strongly convex.
    #[error(
        "{layer}: its objective is not known to be strongly convex, so its equilibrium has no \
         Lipschitz constant; it is with family p and without diversity"
    )]
    NotStronglyConvex {
        /// Name of the equilibrium.
        layer: String,
    },
    /// A term does not say how its gradient depends on the injection.
    #[error(
        "{layer}: the term `{term}` does not bound its dependence on the injection; implement \
         Term::injection_gain"
    )]
    Injection {
        /// Name of the equilibrium.
        layer: String,
        /// Name of the term.
        term: String,
    },
    /// The layer's output is not an equilibrium.
    #[error(
        "{layer}: its solver takes a fixed number of steps, so its output is no equilibrium and the \
         constant of one does not hold"
    )]
    FixedSteps {
        /// Name of the equilibrium.
        layer: String,
    },
    /// A parameter is NaN or infinite.
    #[error("{part}: a parameter is not a finite number; an earlier checkpoint may be intact")]
    NotFinite {
        /// Name of the part.
        part: String,
    },
    /// The number of factors is not the number of channels of the pictures.
    #[error("there are {found} factors of the normalisation for {expected} channels")]
    Channels {
        /// Number of factors.
        found: usize,
        /// Number of channels.
        expected: usize,
    },
}

/// What a strongly convex objective guarantees about its minimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stability {
    /// |dz*| <= gain |dc| for the injection c.
    pub gain: f64,
    /// |z - z*| <= error |T(z) - z| for every z and the map T.
    pub error: f64,
}

impl HiddenObjective {
    /// The constants of the minimiser, if the norm of W is at most `setting.kernel_norm`.
    ///
    /// # Errors
    ///
    /// Returns an error if the norm is not finite, if the terms do not guarantee strong convexity
    /// and a bounded curvature, or if a term does not bound its dependence on the injection.
    /// `layer` is the name in the message.
    pub fn stability(&self, setting: &Setting, layer: &str) -> Result<Stability, LipschitzError> {
        if !setting.kernel_norm.is_finite() {
            return Err(LipschitzError::NotFinite { part: layer.into() });
        }
        let zero = Curvature::new(0.0, 0.0);
        let curvatures = self.terms().iter().map(|term| term.curvature(setting));
        let curvature = curvatures.fold(zero, |a, b| a + b);
        let convex = curvature.strong_convexity();
        let Some(m) = convex.filter(|_| curvature.smoothness().is_some()) else {
            return Err(LipschitzError::NotStronglyConvex {
                layer: layer.into(),
            });
        };
        let mut gain = 0.0;
        for term in self.terms() {
            let of_term = term.injection_gain(setting);
            gain += of_term.ok_or_else(|| LipschitzError::Injection {
                layer: layer.into(),
                term: term.name().into(),
            })?;
        }
        let at = |eigenvalue: f64| (1.0 - self.step() * eigenvalue).abs();
        let contraction = at(curvature.lower).max(at(curvature.upper));
        Ok(Stability {
            gain: gain / m,
            error: 1.0 + contraction / (self.step() * m),
        })
    }

    /// |T(z) - z| for every sample.
    pub(crate) fn residual(&self, z: &Branches, x: &Context) -> Vec<f64> {
        let image = self.apply(z.clone(), x.clone());
        let pairs = image.into_iter().zip(z);
        let change: Branches = pairs.map(|(a, b)| a - b.clone()).collect();
        let norms = (half_square(&change) * 2.0).sqrt().without_autodiff();
        norms.into_data().iter::<f64>().collect()
    }
}

/// The factor of a nonnegative coding whose dictionary has this norm: |dz| <= factor |dg|. If the
/// norm is exact, a single code attains this bound.
pub fn coding_gain(dictionary_norm: f64, mu: f64) -> f64 {
    let square = dictionary_norm * dictionary_norm;
    match square <= mu {
        true => dictionary_norm / (square + mu),
        false => 0.5 / mu.sqrt(),
    }
}

/// Logits, and the residual at which each solve stopped.
#[derive(Clone, Debug)]
pub struct Solved {
    /// Class scores, `[batch, classes]`.
    pub logits: Tensor<2>,
    /// |f(z) - z| where each solve stopped, equilibrium by equilibrium, sample by sample.
    pub residuals: Vec<Vec<f64>>,
}

/// The constant from the pictures to the output of a part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct PartConstant {
    /// "stem", "stage 1, layer 2", ...
    pub name: String,
    /// |change of the output| <= constant |change of the picture|.
    pub constant: f64,
}

/// What is certified for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct Certificate {
    /// Index of the likeliest class.
    pub class: usize,
    /// Index of the class that sets the radius.
    pub nearest: usize,
    /// Difference of the two logits.
    pub margin: f64,
    /// Bound on how much solve errors and rounding can reduce the margin.
    pub error: f64,
    /// No change of the picture shorter than this changes the class. 0 certifies nothing.
    pub radius: f64,
}

/// The Lipschitz constants of a network: [`Network::lipschitz`](crate::Network::lipschitz).
#[derive(Clone, Debug, PartialEq)]
pub struct Lipschitz {
    classes: usize,
    reads: Vec<Read>,
    errors: Vec<f64>,
    parts: Vec<PartConstant>,
}

impl Lipschitz {
    /// L_jk: how fast y_j - y_k can change with the picture.
    pub fn pair(&self, j: usize, k: usize) -> f64 {
        let of = |read: &Read| read.distance(self.classes, j, k) * read.amount(0);
        self.reads.iter().map(of).sum()
    }

    /// The largest L_jk.
    pub fn largest_pair(&self) -> f64 {
        let pairs = (0..self.classes).flat_map(|j| (0..j).map(move |k| (j, k)));
        pairs.map(|(j, k)| self.pair(j, k)).fold(0.0, largest)
    }

    /// How far y_j - y_k can be from its value at the exact equilibria, if the solves stopped at
    /// these residuals |f(z) - z|, one per equilibrium.
    pub fn error(&self, j: usize, k: usize, residuals: &[f64]) -> f64 {
        let of = |read: &Read| {
            let pairs = self.errors.iter().zip(residuals).enumerate();
            let moved = pairs.map(|(i, (error, residual))| match read.amount(i + 1) {
                0.0 => 0.0,
                amount => amount * error * residual,
            });
            read.distance(self.classes, j, k) * moved.sum::<f64>()
        };
        self.reads.iter().map(of).sum()
    }

    /// The certificate of a picture with these logits, whose solves stopped at these residuals.
    pub fn certificate(&self, logits: &[f64], residuals: &[f64]) -> Certificate {
        let count = self.classes.min(logits.len());
        // Of equal logits, the first wins.
        let class = (0..count)
            .rev()
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
        let class = class.unwrap_or(0);
        let size = logits.iter().fold(0.0, |m, y| largest(m, y.abs()));
        let mut nearest: Option<Certificate> = None;
        for k in (0..count).filter(|k| *k != class) {
            let margin = logits[class] - logits[k];
            let error = self.error(class, k, residuals) + ROUNDING * size;
            let room = margin - error;
            // Not `room <= 0.0`, because NaN must not give a certificate.
            let radius = match room > 0.0 {
                true => room / self.pair(class, k),
                false => 0.0,
            };
            let closer = nearest
                .is_none_or(|n| radius < n.radius || (radius == n.radius && margin < n.margin));
            if closer {
                nearest = Some(Certificate {
                    class,
                    nearest: k,
                    margin,
                    error,
                    radius,
                });
            }
        }
        nearest.unwrap_or(Certificate {
            class,
            nearest: class,
            margin: 0.0,
            error: 0.0,
            radius: f64::INFINITY,
        })
    }

    /// The constants after each part, in the order of the data.
    pub fn parts(&self) -> &[PartConstant] {
        &self.parts
    }
}

/// How the class scores depend on a vector that moves by at most `amounts`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Read {
    /// For each pair of classes, the length of the vector that gives y_j - y_k.
    pub(crate) distances: Vec<f64>,
    pub(crate) amounts: Vec<f64>,
}

impl Read {
    fn distance(&self, classes: usize, j: usize, k: usize) -> f64 {
        self.distances.get(j * classes + k).copied().unwrap_or(0.0)
    }

    fn amount(&self, i: usize) -> f64 {
        self.amounts.get(i).copied().unwrap_or(0.0)
    }
}

/// Returns an error if the solver takes a fixed number of steps.
pub(crate) fn must_solve(config: &EquilibriumConfig, layer: &str) -> Result<(), LipschitzError> {
    match config.forward.termination.check {
        Check::Never => Err(LipschitzError::FixedSteps {
            layer: layer.into(),
        }),
        Check::Every(_) => Ok(()),
    }
}
