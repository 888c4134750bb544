//! The implicit gradient against unrolled autodiff and central differences.

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor};
use burn_deq::{Equilibrium, EquilibriumConfig, Gradient, Solver};

use crate::support::{Numbers, Tanh, relative, relative_error, values};

fn tight(forward: Solver, adjoint: Solver) -> Equilibrium {
    let exact = |s: Solver| {
        s.with_relative(1e-13)
            .with_absolute(1e-14)
            .with_max_steps(300)
    };
    EquilibriumConfig::new()
        .with_forward(exact(forward))
        .with_gradient(Gradient::implicit(exact(adjoint)))
        .init()
}

/// dL/dW, dL/dU, dL/db, dL/dx for L = sum(cos(z) * c) with a fixed c.
type Gradients = (Tensor<2>, Tensor<2>, Tensor<1>, Tensor<2>);

fn loss(z: Tensor<2>) -> Tensor<1> {
    let [batch, n] = z.dims();
    let c = Numbers::new(5).tensor([batch, n], 1.0);
    let c = Tensor::from_data(c.into_data(), (&z.device(), z.dtype()));
    (z.cos() * c).sum()
}

fn gradients_of(
    cell: &Tanh,
    x: &Tensor<2>,
    solve: impl Fn(&Tanh, Tensor<2>) -> Tensor<2>,
) -> Gradients {
    let cell = cell.clone().train();
    let x = x.clone().autodiff().require_grad();
    let grads = loss(solve(&cell, x.clone())).backward();
    (
        cell.w.val().grad(&grads).expect("dW"),
        cell.u.val().grad(&grads).expect("dU"),
        cell.b.val().grad(&grads).expect("db"),
        x.grad(&grads).expect("dx"),
    )
}

fn unrolled(cell: &Tanh, x: Tensor<2>, steps: usize) -> Tensor<2> {
    let [batch, n] = [x.dims()[0], cell.w.dims()[0]];
    let mut z = Tensor::zeros([batch, n], (&x.device(), x.dtype()));
    for _ in 0..steps {
        z = cell.forward(z, x.clone());
    }
    z
}

fn zeros(x: &Tensor<2>, n: usize) -> Tensor<2> {
    Tensor::zeros([x.dims()[0], n], (&x.device(), x.dtype()))
}

fn worst(a: &Gradients, b: &Gradients) -> f64 {
    [
        relative_error(a.0.clone(), b.0.clone()),
        relative_error(a.1.clone(), b.1.clone()),
        relative_error(a.2.clone(), b.2.clone()),
        relative_error(a.3.clone(), b.3.clone()),
    ]
    .into_iter()
    .fold(0.0, f64::max)
}

#[test]
fn tanh_layer_matches_unrolled_autodiff_for_every_solver_pair() {
    let device = Device::flex();
    let cell = Tanh::new(16, 9, &device, DType::F64);
    let x = Numbers::new(1).tensor([5, 9], 1.0);
    let reference = gradients_of(&cell, &x, |c, x| unrolled(c, x, 200));
    let solvers = [
        Solver::plain(),
        Solver::anderson(6),
        Solver::anderson(1),
        damped(0.7),
    ];
    for forward in &solvers {
        for adjoint in &solvers {
            let deq = tight(forward.clone(), adjoint.clone());
            let implicit = gradients_of(&cell, &x, |c, x| {
                let z0 = zeros(&x, 16);
                let out = deq.solve(c, Tanh::forward, x, z0);
                assert!(out.forward.all_converged(), "{:?}", out.forward);
                out.state
            });
            let error = worst(&implicit, &reference);
            assert!(error <= 1e-9, "{forward:?} / {adjoint:?}: {error:e}");
        }
    }
}

fn damped(damping: f64) -> Solver {
    Solver {
        method: burn_deq::Method::Plain { damping },
        ..Solver::default()
    }
}

#[test]
fn tanh_layer_matches_central_differences() {
    let device = Device::flex();
    let cell = Tanh::new(6, 4, &device, DType::F64);
    let x = Numbers::new(2).tensor([3, 4], 1.0);
    let deq = tight(Solver::anderson(6), Solver::anderson(6));
    let value = |cell: &Tanh, x: &Tensor<2>| -> f64 {
        let out = deq.solve(cell, Tanh::forward, x.clone(), zeros(x, 6));
        values(loss(out.state))[0]
    };
    let (dw, du, db, dx) = gradients_of(&cell, &x, |c, x| {
        let z0 = zeros(&x, 6);
        deq.solve(c, Tanh::forward, x, z0).state
    });

    let h = 1e-5;
    let bumped = |t: Tensor<2>, i: usize, h: f64| {
        let dims = t.dims();
        let mut v = values(t);
        v[i] += h;
        crate::support::f64_tensor(v, dims)
    };
    let with_w = |w| Tanh {
        w: burn::module::Param::from_tensor(w),
        ..cell.clone()
    };
    let with_u = |u| Tanh {
        u: burn::module::Param::from_tensor(u),
        ..cell.clone()
    };
    let with_b = |b: Tensor<2>| Tanh {
        b: burn::module::Param::from_tensor(b.squeeze_dim(0)),
        ..cell.clone()
    };
    let difference = |n: usize, at: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
        (0..n).map(|i| (at(i, h) - at(i, -h)) / (2.0 * h)).collect()
    };
    let w = cell.w.val();
    let u = cell.u.val();
    let b = cell.b.val().unsqueeze::<2>();
    let fd_w = difference(36, &|i, h| value(&with_w(bumped(w.clone(), i, h)), &x));
    let fd_u = difference(24, &|i, h| value(&with_u(bumped(u.clone(), i, h)), &x));
    let fd_b = difference(6, &|i, h| value(&with_b(bumped(b.clone(), i, h)), &x));
    let fd_x = difference(12, &|i, h| value(&cell, &bumped(x.clone(), i, h)));
    for (name, exact, fd) in [
        ("W", values(dw), fd_w),
        ("U", values(du), fd_u),
        ("b", values(db), fd_b),
        ("x", values(dx), fd_x),
    ] {
        let error = relative(&exact, &fd);
        assert!(error <= 1e-6, "d{name}: {error:e}");
    }
}

#[test]
fn tanh_layer_in_f32_matches_unrolled_autodiff() {
    let device = Device::flex();
    let cell = Tanh::new(16, 9, &device, DType::F32);
    let x = Numbers::new(1).tensor([5, 9], 1.0);
    let x = Tensor::from_data(x.into_data(), (&device, DType::F32));
    let reference = gradients_of(&cell, &x, |c, x| unrolled(c, x, 200));
    let solver = || Solver::default().with_relative(3e-7).with_absolute(1e-9);
    let deq = EquilibriumConfig::new()
        .with_forward(solver())
        .with_gradient(Gradient::implicit(solver()))
        .init();
    let implicit = gradients_of(&cell, &x, |c, x| {
        let z0 = zeros(&x, 16);
        deq.solve(c, Tanh::forward, x, z0).state
    });
    let error = worst(&implicit, &reference);
    assert!(error <= 2e-6, "{error:e}");
}

#[test]
fn the_initial_state_gets_no_gradient() {
    let device = Device::flex();
    let cell = Tanh::new(8, 4, &device, DType::F64).train();
    let x = Numbers::new(3).tensor([2, 4], 1.0);
    let z0 = Numbers::new(4)
        .tensor([2, 8], 1.0)
        .autodiff()
        .require_grad();
    let deq = tight(Solver::default(), Solver::default());
    let out = deq.solve(&cell, Tanh::forward, x, z0.clone());
    let grads = loss(out.state).backward();
    let gradient = z0.grad(&grads).map(values).unwrap_or_default();
    assert!(gradient.iter().all(|g| *g == 0.0));
}

#[test]
fn phantom_error_falls_with_the_number_of_steps() {
    let device = Device::flex();
    let cell = Tanh::new(16, 9, &device, DType::F64);
    let x = Numbers::new(1).tensor([5, 9], 1.0);
    let reference = gradients_of(&cell, &x, |c, x| unrolled(c, x, 200));
    let mut last = f64::INFINITY;
    for steps in [1, 2, 4, 8, 16] {
        let deq = EquilibriumConfig::new()
            .with_forward(Solver::default().with_relative(1e-12))
            .with_gradient(Gradient::Phantom {
                steps,
                damping: 1.0,
            })
            .init();
        let phantom = gradients_of(&cell, &x, |c, x| {
            let z0 = zeros(&x, 16);
            deq.solve(c, Tanh::forward, x, z0).state
        });
        let error = worst(&phantom, &reference);
        assert!(
            error < 0.7 * last,
            "{steps} steps: {error:e} after {last:e}"
        );
        last = error;
    }
}

#[test]
fn two_layers_on_one_tape() {
    let device = Device::flex();
    let cell = Tanh::new(8, 8, &device, DType::F64);
    let x = Numbers::new(6).tensor([3, 8], 1.0);
    let deq = tight(Solver::default(), Solver::default());
    let stacked = gradients_of(&cell, &x, |c, x| {
        let one = deq.solve(c, Tanh::forward, x.clone(), zeros(&x, 8)).state;
        one.clone()
            + deq
                .solve(c, Tanh::forward, one.clone(), zeros(&one, 8))
                .state
    });
    let reference = gradients_of(&cell, &x, |c, x| {
        let one = unrolled(c, x, 200);
        one.clone() + unrolled(c, one, 200)
    });
    assert!(worst(&stacked, &reference) <= 1e-9);
}

#[test]
fn states_of_several_branches_match_unrolled() {
    // Two branches of different width and rank that feed each other.
    let device = Device::flex();
    let cell = Tanh::new(6, 6, &device, DType::F64);
    let x = Numbers::new(8).tensor([3, 6], 1.0);
    type Branches = (Tensor<2>, Tensor<3>);
    fn step(cell: &Tanh, (a, b): Branches, x: Tensor<2>) -> Branches {
        let from_b = b.clone().mean_dim(1).squeeze_dim::<2>(1);
        let a_new = cell.forward(a.clone() * 0.5, x + from_b.repeat_dim(1, 3) * 0.3);
        let b_new = (b * 0.4 + a.narrow(1, 0, 2).unsqueeze_dim::<3>(1)).sin() * 0.6;
        (a_new, b_new)
    }
    let start = || {
        (
            Tensor::<2>::zeros([3, 6], (&device, DType::F64)),
            Tensor::<3>::zeros([3, 4, 2], (&device, DType::F64)),
        )
    };
    let deq = tight(Solver::default(), Solver::default());
    // A loss of both branches, and of each one alone: the other branch then has no gradient.
    let merges: [fn(Branches) -> Tensor<2>; 3] = [
        |(a, b)| Tensor::cat(vec![a, b.reshape([3, 8])], 1),
        |(a, _)| a,
        |(_, b)| b.reshape([3, 8]),
    ];
    for merge in merges {
        let implicit = gradients_of(&cell, &x, |c, x| {
            merge(deq.solve(c, step, x, start()).state)
        });
        let reference = gradients_of(&cell, &x, |c, x| {
            let mut z = start();
            for _ in 0..200 {
                z = step(c, z, x.clone());
            }
            merge(z)
        });
        let error = worst(&implicit, &reference);
        assert!(error <= 1e-9, "{error:e}");
    }
}

#[test]
fn the_backward_report_arrives_and_speaks_of_the_backward_solve() {
    let device = Device::flex();
    let cell = Tanh::new(8, 4, &device, DType::F64).train();
    let x = Numbers::new(3).tensor([2, 4], 1.0);
    let short = Solver::plain().with_relative(1e-12).with_max_steps(3);
    let deq = EquilibriumConfig::new()
        .with_forward(Solver::default().with_relative(1e-10))
        .with_gradient(Gradient::implicit(short))
        .init();
    let out = deq.solve(&cell, Tanh::forward, x.clone(), zeros(&x, 8));
    assert!(out.adjoint.report().is_none());
    loss(out.state).backward();
    let report = out.adjoint.report().expect("the backward solve reports");
    assert!(out.forward.all_converged());
    assert_eq!(report.count(burn_deq::Status::StepLimit), 2, "{report:?}");
    assert_eq!(report.evaluations, 3);
}

/// Rows 1, 7 and 11 of the catalogue, whose gradients are known in closed form.
#[test]
fn gradients_of_known_problems() {
    let solver = || {
        Solver::anderson(4)
            .with_relative(1e-13)
            .with_absolute(1e-14)
            .with_max_steps(300)
    };
    let leaf = |v: Vec<f64>, shape: [usize; 2]| {
        crate::support::f64_tensor(v, shape)
            .autodiff()
            .require_grad()
    };
    let layer = |forward: Solver| {
        EquilibriumConfig::new()
            .with_gradient(Gradient::implicit(forward.clone()))
            .with_forward(forward)
            .init()
    };
    for forward in [
        solver(),
        Solver::broyden(10)
            .with_relative(1e-13)
            .with_absolute(1e-14),
    ] {
        // z = cos z + theta: dz/dtheta = 1 / (1 + sin z).
        let theta = leaf(vec![0.0, 0.5, std::f64::consts::FRAC_PI_2], [3, 1]);
        let f = |z: Tensor<2>, theta: Tensor<2>| z.cos() + theta;
        let out = layer(forward.clone()).solve_map(&f, theta.clone(), theta.clone().inner());
        let z = values(out.state.clone());
        let gradient = values(theta.grad(&out.state.sum().backward()).unwrap());
        for (g, z) in gradient.iter().zip(z) {
            assert!((g - 1.0 / (1.0 + z.sin())).abs() < 1e-11, "{g}");
        }
        // z = w z + b with w = -2, b = 1: z = b / (1 - w), dz/dw = b / (1 - w)^2 = 1 / 9, dz/db = 1
        // / 3, and exactly zero for the start.
        let (w, b) = (leaf(vec![-2.0], [1, 1]), leaf(vec![1.0], [1, 1]));
        let z0 = leaf(vec![0.7], [1, 1]);
        let f = |z: Tensor<2>, (w, b): (Tensor<2>, Tensor<2>)| z * w + b;
        let out = layer(forward.clone()).solve_map(&f, (w.clone(), b.clone()), z0.clone());
        assert!((values(out.state.clone())[0] - 1.0 / 3.0).abs() < 1e-12);
        let gradients = out.state.sum().backward();
        assert!((values(w.grad(&gradients).unwrap())[0] - 1.0 / 9.0).abs() < 1e-11);
        assert!((values(b.grad(&gradients).unwrap())[0] - 1.0 / 3.0).abs() < 1e-11);
        assert!(z0.grad(&gradients).is_none_or(|g| values(g) == [0.0]));
    }

    // z = z M + b, M symmetric with n = 200: u = (I - M)^-1 c, dL/db = u, dL/dM = z' u.
    let spectrum: Vec<f64> = (0..200).map(|k| -0.49 + 0.98 * k as f64 / 199.0).collect();
    let matrix = crate::support::Affine::matrix(&spectrum, 5);
    let system = |i: usize, j: usize| f64::from(i == j) - matrix[i * 200 + j];
    let rows = (0..200)
        .map(|i| (0..200).map(|j| system(i, j)).collect())
        .collect();
    let c = Numbers::new(2).vec(200);
    let u = crate::problems::linear_solve(rows, c.clone());
    let (m, b) = (
        leaf(matrix.clone(), [200, 200]),
        leaf(Numbers::new(3).vec(200), [1, 200]),
    );
    let f = |z: Tensor<2>, (m, b): (Tensor<2>, Tensor<2>)| z.matmul(m) + b;
    let out = layer(solver()).solve_map(&f, (m.clone(), b.clone()), b.clone().inner());
    let z = values(out.state.clone());
    let weights = crate::support::f64_tensor(c, [1, 200]);
    let gradients = (out.state * weights).sum().backward();
    assert!(relative(&values(b.grad(&gradients).unwrap()), &u) < 1e-11);
    let outer: Vec<f64> = z
        .iter()
        .flat_map(|z| u.iter().map(move |u| z * u))
        .collect();
    assert!(relative(&values(m.grad(&gradients).unwrap()), &outer) < 1e-11);
}
