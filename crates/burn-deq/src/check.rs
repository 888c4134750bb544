//! Checks the declarations of a map.

use burn::config::Config;
use burn::tensor::{DType, Distribution, Tensor};
use deq_kernels::vectors::{Rows, inner, ratio, square_norm};

use crate::forward::Forward;
use crate::input::Input;
use crate::linearisation::Structure;
use crate::linearised::Linearised;
use crate::map::FixedPointMap;
use crate::state::{Packing, State};

/// Settings of [`check_declarations`].
#[derive(Config, Debug, PartialEq)]
pub struct CheckConfig {
    /// Largest accepted relative error. Default: 1e-9 in f64, 1e-3 in smaller types
    pub tolerance: Option<f64>,
    /// Number of random directions. Default: 4
    #[config(default = 4)]
    pub probes: usize,
    /// Power iterations with J' for its largest eigenvalue, for maps that declare I - J positive
    /// definite. Default: 100
    #[config(default = 100)]
    pub iterations: usize,
}

impl Default for CheckConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// The relative errors that [`check_declarations`] measured; `None` for properties that are not
/// declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// f on the tape against f off the tape.
    pub tape: f64,
    /// The closed-form J'u against autodiff.
    pub vjp: Option<f64>,
    /// <J u, v> against <u, J'v>.
    pub jvp: Option<f64>,
    /// J'u against J'Du.
    pub mask: Option<f64>,
    /// <J'u, v> against <u, J'v>, on the range of the mask if there is one.
    pub symmetry: Option<f64>,
    /// Largest eigenvalue of the symmetric J over all samples, estimated from below.
    pub largest_eigenvalue: Option<f64>,
    /// f of some samples alone against the same samples of f(z, x). Also `None` for a batch of one,
    /// or if the input cannot select its samples.
    pub independence: Option<f64>,
}

/// A declaration that does not hold at the point where it was checked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclarationError {
    /// f gives different values on the tape and off it.
    #[error(
        "f differs by {0:.1e} (relative) with and without autodiff; does it contain Dropout or \
         BatchNorm? Pass masks in x (dropout_mask) and normalise with GroupNorm"
    )]
    Tape(f64),
    /// The closed-form J'u is not that of autodiff.
    #[error("the closed-form J'u differs from that of autodiff by {0:.1e} (relative)")]
    Vjp(f64),
    /// J and J' are not each other's transposes.
    #[error("<J u, v> and <u, J'v> differ by {0:.1e} (relative): jvp and vjp are not transposes")]
    Jvp(f64),
    /// The mask has entries other than zeros and ones.
    #[error("the mask holds {0}; it must hold only zeros and ones")]
    MaskValue(f64),
    /// J' depends on entries that the mask hides.
    #[error("J'u and J'Du differ by {0:.1e} (relative): J is not D times a matrix")]
    Mask(f64),
    /// J is not symmetric.
    #[error("<J'u, v> and <u, J'v> differ by {0:.1e} (relative): J is not symmetric")]
    Symmetry(f64),
    /// I - J is not positive definite.
    #[error("J has an eigenvalue of {0} or more: I - J is not positive definite")]
    Definiteness(f64),
    /// Samples influence each other.
    #[error("samples depend on each other: f of one changes by {0:.1e} (relative)")]
    Independence(f64),
}

/// Checks the declarations of a map at (z, x), in random directions.
///
/// - f gives the same values with autodiff and without (no Dropout, no BatchNorm). For this check,
///   pass x as in training: with the module's `train()`, and with autodiff.
/// - The closed-form J'u agrees with autodiff, and J u with J'u.
/// - The mask D consists of zeros and ones, and J is D times a matrix.
/// - J (or D J D) is symmetric and I - J is positive definite, if declared.
/// - Samples are independent, if declared.
///
/// # Errors
///
/// Returns the first declaration that does not hold, with the measured error. A declaration may
/// hold at one point and fail at another, so check at several.
///
/// # Example
///
/// ```
/// use burn::prelude::*;
/// use burn_deq::{CheckConfig, Declared, DeclarationError, Structure, check_declarations};
///
/// # let device = Device::flex();
/// let z = Tensor::<2>::random([3, 2], burn::tensor::Distribution::Default, &device);
/// let a = Tensor::<2>::from_floats([[0.2, 0.3], [0.3, -0.1]], &device);
/// let map = Declared::new(|z: Tensor<2>, a: Tensor<2>| z.matmul(a))
///     .with_structure(Structure::SymmetricPositiveDefinite)
///     .with_independent_samples(true);
/// check_declarations(&map, &a, z.clone(), &CheckConfig::new()).unwrap();
///
/// let skew = Tensor::<2>::from_floats([[0.2, 0.3], [-0.3, -0.1]], &device);
/// let error = check_declarations(&map, &skew, z, &CheckConfig::new()).unwrap_err();
/// assert!(matches!(error, DeclarationError::Symmetry(_)));
/// ```
pub fn check_declarations<S: State, X: Input, F: FixedPointMap<S, X>>(
    map: &F,
    x: &X,
    z: S,
    config: &CheckConfig,
) -> Result<Measured, DeclarationError> {
    let (z, packing) = Packing::pack(z);
    let z = z.without_autodiff();
    let tolerance = config.tolerance.unwrap_or(match z.dtype() {
        DType::F64 => 1e-9,
        _ => 1e-3,
    });
    let within = |error: f64, complaint: fn(f64) -> DeclarationError| {
        // Not "greater", so that NaN does not pass.
        if error <= tolerance {
            Ok(error)
        } else {
            Err(complaint(error))
        }
    };
    let plain = x.plain();
    let forward = || Forward {
        map,
        x: plain.clone(),
        packing: &packing,
    };
    let mut measured = Measured::default();
    if z.shape().num_elements() == 0 {
        return Ok(measured);
    }

    let f = forward().evaluate::<S>(z.clone());
    let taped = packing.repack(map.apply(packing.unpack(z.clone().autodiff()), x.clone()));
    let taped = taped.without_autodiff();
    measured.tape = within(difference(taped, f.clone()), DeclarationError::Tape)?;

    let value = map.fast().map(|_| f.clone());
    let linearised = Linearised::<S, F, X>::new(forward(), z.clone(), value);
    let random = || {
        let normal = Distribution::Normal(0.0, 1.0);
        Tensor::<2>::random(z.dims(), normal, (&z.device(), z.dtype()))
    };
    let mask = linearised.mask();
    if let Some(mask) = &mask {
        let mut values = mask.clone().into_data().iter::<f64>().collect::<Vec<_>>();
        values.retain(|v| *v != 0.0 && *v != 1.0);
        if let Some(value) = values.first() {
            return Err(DeclarationError::MaskValue(*value));
        }
    }
    let on_range = |u: Tensor<2>| match &mask {
        Some(mask) => u * mask.clone(),
        None => u,
    };
    let symmetric = map.structure().is_symmetric();
    for _ in 0..config.probes.max(1) {
        let (u, v) = (random(), random());
        let jt_v = linearised.vjp(v.clone());
        if linearised.is_closed_form() {
            let reference = linearised.vjp_by_autodiff(v.clone());
            let error = within(difference(jt_v.clone(), reference), DeclarationError::Vjp)?;
            raise(&mut measured.vjp, error);
        }
        if let Some(j_u) = linearised.jvp(u.clone()) {
            let error = mismatch((&j_u, &v), (&u, &jt_v));
            raise(&mut measured.jvp, within(error, DeclarationError::Jvp)?);
        }
        if mask.is_some() {
            let hidden = linearised.vjp(on_range(v.clone()));
            let error = within(difference(hidden, jt_v), DeclarationError::Mask)?;
            raise(&mut measured.mask, error);
        }
        if symmetric {
            let (u, v) = (on_range(u), on_range(v));
            let (jt_u, jt_v) = (linearised.vjp(u.clone()), linearised.vjp(v.clone()));
            let error = mismatch((&jt_u, &v), (&u, &jt_v));
            let error = within(error, DeclarationError::Symmetry)?;
            raise(&mut measured.symmetry, error);
        }
    }
    if map.structure() == Structure::SymmetricPositiveDefinite {
        let product = |u: Tensor<2>| on_range(linearised.vjp(u));
        let largest = largest_eigenvalue(product, on_range(random()), config.iterations);
        measured.largest_eigenvalue = Some(largest);
        // 1 - epsilon must pass despite rounding error; NaN must not pass.
        if largest.is_nan() || largest >= 1.0 {
            return Err(DeclarationError::Definiteness(largest));
        }
    }
    let batch = z.dims()[0];
    if map.independent_samples() && batch > 1 {
        let odd: Vec<usize> = (1..batch).step_by(2).collect();
        let rows = Rows::new(odd, batch, &z.device());
        if let Some(some) = plain.select(&rows) {
            let alone = Forward {
                map,
                x: some,
                packing: &packing,
            };
            let alone = alone.evaluate::<S>(rows.of(z.clone()));
            let error = difference(alone, rows.of(f));
            let error = within(error, DeclarationError::Independence)?;
            measured.independence = Some(error);
        }
    }
    Ok(measured)
}

/// Keeps the larger error.
fn raise(slot: &mut Option<f64>, error: f64) {
    *slot = Some(slot.map_or(error, |e| e.max(error)));
}

fn scalar(x: Tensor<1>) -> f64 {
    x.into_data().iter::<f64>().next().unwrap_or(0.0)
}

/// |a - b| / sqrt(|a|^2 + |b|^2) over all elements; 0 if a and b are equal.
fn difference(a: Tensor<2>, b: Tensor<2>) -> f64 {
    let error = scalar(square_norm(a.clone() - b.clone()).sum()).sqrt();
    let size = scalar((square_norm(a) + square_norm(b)).sum()).sqrt();
    if error == 0.0 { 0.0 } else { error / size }
}

/// |<a, b> - <c, d>| relative to the larger of |a| |b| and |c| |d|, the largest over all samples.
fn mismatch((a, b): (&Tensor<2>, &Tensor<2>), (c, d): (&Tensor<2>, &Tensor<2>)) -> f64 {
    let error = (inner(a.clone(), b.clone()) - inner(c.clone(), d.clone())).abs();
    let size =
        |a: &Tensor<2>, b: &Tensor<2>| (square_norm(a.clone()) * square_norm(b.clone())).sqrt();
    let size = size(a, b).max_pair(size(c, d));
    let solved = error.clone().equal_elem(0.0);
    scalar((error / size).mask_fill(solved, 0.0).max())
}

/// Largest eigenvalue of a symmetric operator over all samples, by power iteration on the operator
/// plus its norm. The estimate is a lower bound.
fn largest_eigenvalue(
    product: impl Fn(Tensor<2>) -> Tensor<2>,
    start: Tensor<2>,
    iterations: usize,
) -> f64 {
    let unit = |v: Tensor<2>| {
        let norm = square_norm(v.clone()).sqrt();
        v * ratio(norm.ones_like(), norm)
    };
    let mut v = unit(start);
    let mut norm = Tensor::zeros([v.dims()[0], 1], (&v.device(), v.dtype()));
    let mut w = v.clone();
    for _ in 0..10 {
        w = product(w);
        norm = norm.max_pair(square_norm(w.clone()).sqrt());
        w = unit(w);
    }
    for _ in 0..iterations.max(1) {
        v = unit(product(v.clone()) + v * norm.clone());
    }
    scalar(inner(v.clone(), product(v)).max())
}
