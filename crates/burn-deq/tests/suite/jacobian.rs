//! Regularisers, diagnostics and the check of declarations.

use std::sync::{Arc, Mutex};

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{
    CheckConfig, DeclarationError, Declared, EquilibriumConfig, FixedPointMap, Gradient, Input,
    Jacobian, JacobianNormConfig, Solver, State, Structure, WithModule, check_declarations,
    jacobian_norm, spectral_radius,
};

use crate::problems::Place;
use crate::support::{Affine, Numbers, Tanh, f64_tensor, relative, values};

/// z = z A for a given A, one row per sample.
fn linear(z: Tensor<2>, a: burn_deq::Shared<Tensor<2>>) -> Tensor<2> {
    z.matmul(a.0)
}

fn matrix(rows: &[&[f64]]) -> burn_deq::Shared<Tensor<2>> {
    let n = rows.len();
    burn_deq::Shared(f64_tensor(rows.concat(), [n, n]))
}

#[test]
fn spectral_radius_of_known_matrices() {
    let (s, c) = 0.7f64.sin_cos();
    for (name, a, expected, error) in [
        (
            "0.9 rotation",
            matrix(&[&[0.9 * c, 0.9 * s], &[-0.9 * s, 0.9 * c]]),
            0.9,
            1e-9,
        ),
        (
            "symmetric",
            matrix(&[&[0.2, 0.5], &[0.5, -0.4]]),
            0.683_095_189,
            1e-6,
        ),
        // Growth of a Jordan block: k 0.5^(k-1), an error of 1 / k.
        ("defective", matrix(&[&[0.5, 1.0], &[0.0, 0.5]]), 0.5, 1e-2),
        ("non-normal", matrix(&[&[0.8, 5.0], &[0.0, 0.3]]), 0.8, 1e-6),
        ("zero", matrix(&[&[0.0, 0.0], &[0.0, 0.0]]), 0.0, 0.0),
        ("nilpotent", matrix(&[&[0.0, 1.0], &[0.0, 0.0]]), 0.0, 0.0),
        // A complex pair off the axes in a skewed basis.
        (
            "skewed pair",
            matrix(&[&[0.6, 2.0], &[-0.2, 0.6]]),
            0.76f64.sqrt(),
            1e-2,
        ),
    ] {
        let z = f64_tensor(vec![0.1; 6], [3, 2]);
        let radius = spectral_radius(&linear, &a, z, 200);
        assert_eq!(radius.len(), 3);
        for r in radius {
            assert!((r - expected).abs() <= error, "{name}: {r} for {expected}");
        }
    }
}

/// z = tanh(z W + x U + b) with its Jacobian in closed form.
#[derive(Clone)]
struct ClosedTanh;

type TanhInput = WithModule<Tanh, Tensor<2>>;

struct TanhJacobian {
    slope: Tensor<2>,
    w: Tensor<2>,
}

impl Jacobian<Tensor<2>> for TanhJacobian {
    fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
        (u * self.slope.clone()).matmul(self.w.clone().transpose())
    }
    fn jvp(&self, u: Tensor<2>) -> Option<Tensor<2>> {
        Some(u.matmul(self.w.clone()) * self.slope.clone())
    }
}

impl FixedPointMap<Tensor<2>, TanhInput> for ClosedTanh {
    fn apply(&self, z: Tensor<2>, x: TanhInput) -> Tensor<2> {
        x.module.forward(z, x.input)
    }
    fn jacobian(&self, z: Tensor<2>, x: TanhInput) -> Option<Box<dyn Jacobian<Tensor<2>>>> {
        let w = x.module.w.val();
        let f = self.apply(z, x);
        let slope = (f.clone() * f).neg() + 1.0;
        Some(Box::new(TanhJacobian { slope, w }))
    }
    fn independent_samples(&self) -> bool {
        true
    }
}

/// Only f: products come from differences and autodiff.
#[derive(Clone)]
struct OpenTanh;

impl FixedPointMap<Tensor<2>, TanhInput> for OpenTanh {
    fn apply(&self, z: Tensor<2>, x: TanhInput) -> Tensor<2> {
        x.module.forward(z, x.input)
    }
}

#[test]
fn hutchinson_mean_is_the_frobenius_norm_and_can_be_trained() {
    let device = Device::flex();
    let n = 6;
    let cell = Tanh::new(n, 4, &device, DType::F64);
    let x = Numbers::new(1).tensor([2, 4], 1.0);
    let z = Numbers::new(2).tensor([2, n], 0.5);
    // J = diag(slope) W', entry by entry; its norm, and the gradient of the norm by autodiff.
    let tracked = cell.clone().train();
    let f = tracked.forward(z.clone(), x.clone());
    let slope = (f.clone() * f).neg() + 1.0;
    let w = tracked.w.val();
    let columns = (w.clone() * w.clone()).sum_dim(0);
    let exact = (slope.clone() * slope * columns)
        .sum_dim(1)
        .squeeze_dim::<1>(1);
    let exact_values = values(exact.clone());
    let gradients = exact.sum().backward();
    let exact_w = values(w.grad(&gradients).unwrap());

    device.seed(7);
    for closed in [true, false] {
        let probes = 4000;
        let config = JacobianNormConfig::new().with_probes(probes);
        let input = WithModule {
            module: cell.clone().train(),
            input: x.clone(),
        };
        let estimate = if closed {
            jacobian_norm(&ClosedTanh, &input, z.clone(), &config)
        } else {
            jacobian_norm(&OpenTanh, &input, z.clone(), &config)
        };
        // The relative standard deviation of the mean is below sqrt(2 / probes) = 2.2 %; the bound
        // is four of them.
        for (e, v) in values(estimate.clone()).iter().zip(&exact_values) {
            assert!((e / v - 1.0).abs() < 0.09, "{closed}: {e} for {v}");
        }
        let gradients = estimate.sum().backward();
        let g = values(input.module.w.val().grad(&gradients).expect("trainable"));
        let error = relative(&g, &exact_w);
        assert!(error < 0.1, "closed form {closed}: {error}");
    }
}

/// f with or without its Jacobian, which records every direction that a product was computed for.
/// (A test cannot draw the same probes twice, because parallel tests draw from the device's
/// generator, too.)
#[derive(Clone)]
struct Watched {
    closed: bool,
    seen: Arc<Mutex<Vec<Tensor<2>>>>,
}

struct WatchedJacobian {
    inner: Box<dyn Jacobian<Tensor<2>>>,
    seen: Arc<Mutex<Vec<Tensor<2>>>>,
}

impl Jacobian<Tensor<2>> for WatchedJacobian {
    fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
        self.inner.vjp(u)
    }
    fn jvp(&self, u: Tensor<2>) -> Option<Tensor<2>> {
        self.seen.lock().unwrap().push(u.clone());
        self.inner.jvp(u)
    }
}

impl FixedPointMap<Tensor<2>, TanhInput> for Watched {
    fn apply(&self, z: Tensor<2>, x: TanhInput) -> Tensor<2> {
        if !self.closed {
            self.seen.lock().unwrap().push(z.clone());
        }
        OpenTanh.apply(z, x)
    }
    fn jacobian(&self, z: Tensor<2>, x: TanhInput) -> Option<Box<dyn Jacobian<Tensor<2>>>> {
        let inner = self.closed.then(|| ClosedTanh.jacobian(z, x))??;
        let seen = self.seen.clone();
        Some(Box::new(WatchedJacobian { inner, seen }))
    }
}

#[test]
fn the_estimate_is_the_square_of_the_image_of_its_probe() {
    let device = Device::flex();
    let cell = Tanh::new(6, 4, &device, DType::F64);
    let x = Numbers::new(1).tensor([3, 4], 1.0);
    let z = Numbers::new(2).tensor([3, 6], 0.5);
    let f = cell.forward(z.clone(), x.clone());
    let slope = (f.clone() * f).neg() + 1.0;
    let input = WithModule {
        module: cell.clone(),
        input: x,
    };
    for (closed, tolerance) in [(true, 1e-14), (false, 1e-8)] {
        let seen = Arc::default();
        let map = Watched {
            closed,
            seen: Arc::clone(&seen),
        };
        let config = JacobianNormConfig::new();
        let estimate = values(jacobian_norm(&map, &input, z.clone(), &config));
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        // Only the sign of a central difference's direction matters: its entries are 1 or -1.
        let probe = match seen.as_slice() {
            [v] => v.clone(),
            [ahead, behind] => (ahead.clone() - behind.clone()).sign(),
            other => panic!("{} evaluations", other.len()),
        };
        let v = values(probe.clone());
        assert!(v.iter().all(|v| v.abs() == 1.0), "{v:?}");
        let image = probe.matmul(cell.w.val()) * slope.clone();
        let exact = values((image.clone() * image).sum_dim(1));
        let error = relative(&estimate, &exact);
        assert!(error < tolerance, "closed form {closed}: {error}");
    }
}

#[test]
fn regularising_the_jacobian_makes_it_smaller() {
    let device = Device::flex();
    device.seed(11);
    let mut cell = Tanh::new(8, 4, &device, DType::F64).train();
    let x = Numbers::new(1).tensor([4, 4], 1.0);
    let z = Numbers::new(2).tensor([4, 8], 0.5);
    let config = JacobianNormConfig::new().with_probes(4);
    let norm = |cell: &Tanh| {
        let input = WithModule {
            module: cell.clone(),
            input: x.clone(),
        };
        jacobian_norm(&OpenTanh, &input, z.clone(), &config).mean()
    };
    let before = values(norm(&cell))[0];
    for _ in 0..30 {
        let gradients = norm(&cell).backward();
        let w = cell.w.val();
        let step = w.grad(&gradients).unwrap() * 0.1;
        let w = (w.inner() - step).autodiff().require_grad();
        cell.w = Param::from_tensor(w);
    }
    let after = values(norm(&cell))[0];
    assert!(after < 0.5 * before, "{before} -> {after}");
}

fn check<S: State, X: Input, F: FixedPointMap<S, X>>(
    map: &F,
    x: &X,
    z: S,
) -> Result<burn_deq::Measured, DeclarationError> {
    check_declarations(map, x, z, &CheckConfig::new())
}

#[test]
fn declarations_that_hold_pass_with_what_was_measured() {
    let device = Device::flex();
    let input = WithModule {
        module: Tanh::new(6, 4, &device, DType::F64).train(),
        input: Numbers::new(1).tensor([3, 4], 1.0).autodiff(),
    };
    let z = Numbers::new(2).tensor([3, 6], 0.5);
    let measured = check(&ClosedTanh, &input, z).unwrap();
    assert!(measured.vjp.unwrap() < 1e-12 && measured.jvp.unwrap() < 1e-12);
    assert_eq!(measured.tape, 0.0);
    assert!(measured.independence.unwrap() < 1e-12);
    assert_eq!((measured.symmetry, measured.mask), (None, None));
}

#[test]
fn wrong_declarations_are_named() {
    let device = Device::flex();
    let z = || Numbers::new(2).tensor([3, 2], 0.5);
    let definite = |map: fn(Tensor<2>, burn_deq::Shared<Tensor<2>>) -> Tensor<2>| {
        Declared::new(map).with_structure(Structure::SymmetricPositiveDefinite)
    };
    // Symmetric with eigenvalues 1.2 and -0.4, so I - J is indefinite.
    let a = matrix(&[&[0.4, 0.8], &[0.8, 0.4]]);
    let error = check(&definite(linear), &a, z()).unwrap_err();
    assert!(matches!(error, DeclarationError::Definiteness(l) if (l - 1.2).abs() < 1e-6));
    let symmetric = Declared::new(linear).with_structure(Structure::Symmetric);
    assert!(check(&symmetric, &a, z()).is_ok());
    let skew = matrix(&[&[0.1, 0.8], &[-0.8, 0.4]]);
    let error = check(&symmetric, &skew, z()).unwrap_err();
    assert!(matches!(error, DeclarationError::Symmetry(_)), "{error}");

    // Samples that depend on each other.
    let coupled = Declared::new(|z: Tensor<2>, ()| z.clone() * 0.5 + z.mean_dim(0) * 0.1)
        .with_independent_samples(true);
    let error = check(&coupled, &(), z()).unwrap_err();
    assert!(
        matches!(error, DeclarationError::Independence(_)),
        "{error}"
    );

    // A closed form with a wrong sign, and one whose jvp is not the transpose of its vjp.
    #[derive(Clone)]
    struct Wrong(f64, f64);
    struct Product(f64, f64);
    impl Jacobian<Tensor<2>> for Product {
        fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
            u * self.0
        }
        fn jvp(&self, u: Tensor<2>) -> Option<Tensor<2>> {
            Some(u * self.1)
        }
    }
    impl FixedPointMap<Tensor<2>, ()> for Wrong {
        fn apply(&self, z: Tensor<2>, (): ()) -> Tensor<2> {
            z * 0.5
        }
        fn jacobian(&self, _z: Tensor<2>, (): ()) -> Option<Box<dyn Jacobian<Tensor<2>>>> {
            Some(Box::new(Product(self.0, self.1)))
        }
    }
    assert!(check(&Wrong(0.5, 0.5), &(), z()).is_ok());
    assert!(matches!(
        check(&Wrong(-0.5, 0.5), &(), z()),
        Err(DeclarationError::Vjp(_))
    ));
    assert!(matches!(
        check(&Wrong(0.5, 0.4), &(), z()),
        Err(DeclarationError::Jvp(_))
    ));

    // Dropout and BatchNorm in f.
    #[derive(Module, Debug)]
    struct Noisy {
        linear: Linear,
        dropout: Dropout,
    }
    let linear_layer = LinearConfig::new(2, 2).init(&device);
    let noisy = WithModule {
        module: Noisy {
            linear: linear_layer,
            dropout: DropoutConfig::new(0.5).init(),
        }
        .train(),
        input: (),
    };
    let f = |z: Tensor<2>, x: WithModule<Noisy, ()>| {
        x.module.dropout.forward(x.module.linear.forward(z))
    };
    let z32 = Tensor::<2>::ones([8, 2], &device);
    let error = check(&f, &noisy, z32.clone()).unwrap_err();
    assert!(matches!(error, DeclarationError::Tape(_)));
    assert!(error.to_string().contains("dropout_mask"), "{error}");

    #[derive(Module, Debug)]
    struct Normed {
        norm: BatchNorm,
    }
    let normed = WithModule {
        module: Normed {
            norm: BatchNormConfig::new(2).init(&device),
        }
        .train(),
        input: (),
    };
    let f = |z: Tensor<2>, x: WithModule<Normed, ()>| {
        let z = z.unsqueeze_dim::<3>(2);
        x.module.norm.forward(z).squeeze_dim(2)
    };
    let z32 = z32 * Tensor::<1>::from_floats([1.0, 2.0], &device).unsqueeze()
        + Tensor::<2>::from_data(
            Numbers::new(3).tensor([8, 2], 1.0).into_data(),
            (&device, DType::F32),
        );
    let error = check(&f, &normed, z32).unwrap_err();
    assert!(matches!(error, DeclarationError::Tape(_)));
}

/// z = relu(z A + x): J = D A, where D is the mask of the positive entries.
#[derive(Clone)]
struct Rectified {
    wrong_mask: bool,
}

struct Masked {
    a: Tensor<2>,
    mask: Tensor<2>,
    wrong: bool,
}

impl Jacobian<Tensor<2>> for Masked {
    fn vjp(&self, u: Tensor<2>) -> Tensor<2> {
        (u * self.mask.clone()).matmul(self.a.clone())
    }
    fn mask(&self) -> Option<Tensor<2>> {
        Some(if self.wrong {
            self.mask.clone().neg() + 1.0
        } else {
            self.mask.clone()
        })
    }
}

type RectifiedInput = WithModule<Affine, Tensor<2>>;

impl FixedPointMap<Tensor<2>, RectifiedInput> for Rectified {
    fn apply(&self, z: Tensor<2>, x: RectifiedInput) -> Tensor<2> {
        x.module.forward(z, x.input).clamp_min(0.0)
    }
    fn jacobian(&self, z: Tensor<2>, x: RectifiedInput) -> Option<Box<dyn Jacobian<Tensor<2>>>> {
        let a = x.module.a.val();
        let mask = x.module.forward(z, x.input).greater_elem(0.0).float();
        Some(Box::new(Masked {
            mask: mask.cast(a.dtype()),
            a,
            wrong: self.wrong_mask,
        }))
    }
    fn structure(&self) -> Structure {
        Structure::SymmetricPositiveDefinite
    }
    fn independent_samples(&self) -> bool {
        true
    }
}

/// The masked system by conjugate gradients against unrolled autodiff. The wgpu tests call this,
/// too.
pub fn check_masked_adjoint(place: &Place) {
    let n = 30;
    let spectrum: Vec<f64> = (0..n)
        .map(|k| -0.9 + 1.8 * k as f64 / (n - 1) as f64)
        .collect();
    let run = |gradient: Gradient| {
        let module = Affine::symmetric(&spectrum, 3, &place.device, place.dtype).train();
        let x = Numbers::new(4).tensor([6, n], 1.0);
        let x = Tensor::from_data(x.into_data(), (&place.device, place.dtype));
        let x = x.autodiff().require_grad();
        let input = WithModule {
            module: module.clone(),
            input: x.clone(),
        };
        let tolerance = 1e-12f64.max(place.floor * 0.1);
        let deq = EquilibriumConfig::new()
            .with_forward(
                Solver::default()
                    .with_relative(tolerance)
                    .with_max_steps(300),
            )
            .with_gradient(gradient)
            .init();
        let map = Rectified { wrong_mask: false };
        let out = deq.solve_map(&map, input, x.clone().inner().zeros_like());
        let gradients = out.state.cos().sum().backward();
        let mut all = values(module.a.val().grad(&gradients).unwrap());
        all.extend(values(x.grad(&gradients).unwrap()));
        (all, out.adjoint.report())
    };
    let (reference, _) = run(Gradient::Unrolled {
        steps: 400,
        damping: 1.0,
    });
    let (exact, report) = run(Gradient::default());
    let report = report.unwrap();
    assert!(report.all_converged(), "{report:?}");
    assert!(
        report.evaluations <= n + 2,
        "conjugate gradients: {report:?}"
    );
    let bound = 1e-9f64.max(place.floor * 50.0);
    assert!(relative(&exact, &reference) < bound);
    let anderson = Gradient::implicit(
        Solver::anderson(6)
            .with_relative(1e-12f64.max(place.floor * 0.1))
            .with_max_steps(300),
    );
    let (by_anderson, _) = run(anderson);
    assert!(relative(&by_anderson, &reference) < bound);
}

#[test]
fn a_masked_symmetric_jacobian_is_solved_on_its_range() {
    check_masked_adjoint(&Place::flex());
    let input = WithModule {
        module: Affine::symmetric(&[0.5, -0.3, 0.2], 3, &Device::flex(), DType::F64),
        input: Numbers::new(4).tensor([6, 3], 1.0),
    };
    let z = Numbers::new(5).tensor([6, 3], 1.0);
    let right = check(&Rectified { wrong_mask: false }, &input, z.clone()).unwrap();
    assert!(right.mask.unwrap() < 1e-12 && right.symmetry.unwrap() < 1e-12);
    let wrong = check(&Rectified { wrong_mask: true }, &input, z);
    assert!(matches!(wrong, Err(DeclarationError::Mask(_))));
}
