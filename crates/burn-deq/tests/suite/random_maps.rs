//! A thousand random maps of eight kinds under every solver: every reported convergence is real.
//!
//! Every sample of a batch is a separate map.

mod maps;

use burn::tensor::{DType, Device, Tensor};
use burn_deq::{
    AndersonConfig, AndersonType, Branches, BroydenConfig, Check, Declared, EquilibriumConfig,
    Freezing, Gradient, LinearMethod, LinearSolver, Method, Norm, Report, Solver, Start, Status,
    Structure, Termination,
};
use deq_kernels::{portably, side_by_side};

use self::maps::{Batch, Maps, distance, length, symmetric, thousand};

fn methods() -> Vec<Method> {
    let anderson = AndersonConfig::new();
    let one = anderson.clone().with_kind(AndersonType::I);
    let broyden = BroydenConfig::new();
    let mut restarted = anderson.clone();
    restarted.restart = Some(5);
    vec![
        Method::Plain { damping: 1.0 },
        Method::Plain { damping: 0.5 },
        Method::Plain { damping: 1.6 },
        anderson.clone().into(),
        anderson.clone().with_history(1).into(),
        anderson.clone().with_history(12).with_damping(0.7).into(),
        anderson.clone().with_safeguard(f64::INFINITY).into(),
        anderson.with_period(3).into(),
        restarted.into(),
        one.clone().into(),
        one.with_history(2).with_damping(1.3).into(),
        broyden.clone().into(),
        broyden.clone().with_history(3).into(),
        broyden.clone().with_damping(0.8).into(),
        broyden.with_safeguard(f64::INFINITY).into(),
    ]
}

/// One way to run a solver.
#[derive(Clone, Copy, Debug)]
struct Way {
    dtype: DType,
    /// Whether the portable forms run, as on a GPU.
    portable: bool,
    freeze: bool,
    check: Check,
    norm: Norm,
    branches: Branches,
    relative: f64,
    max_steps: usize,
}

/// How the solves of a method ended, and how many of those with a known unique solution converged.
#[derive(Default)]
struct Counts {
    ends: [usize; 4],
    known: usize,
    found: usize,
}

impl Counts {
    fn count(&mut self, status: Status, known: bool) {
        self.known += usize::from(known);
        self.found += usize::from(known && status.is_converged());
        let place = match status {
            Status::Converged => 0,
            Status::Diverged => 1,
            Status::Stalled => 2,
            _ => 3,
        };
        self.ends[place] += 1;
    }
}

/// Checks whether the solution of one sample agrees with its report. The error says what is wrong.
fn verify(
    norms: &[[f64; 2]],
    z: &[f64],
    start: &[f64],
    solution: Option<&Vec<f64>>,
    (way, carried): (&Way, bool),
    rule: &Termination,
) -> Result<(), String> {
    // The solver works with rounded numbers: rounding affects each element a few times in every
    // sum.
    let epsilon = way.dtype.finfo().expect("a float").epsilon;
    // Residuals that are updated by recurrence do not see the rounding of earlier, longer iterates.
    let longest = if carried {
        length(z).max(length(start))
    } else {
        length(z)
    };
    let slack = 4.0 * (z.len() as f64 + 4.0) * epsilon * longest;
    for [residual, image] in norms {
        if *residual > rule.absolute + rule.relative * image + slack {
            return Err(format!("residual {residual:e} where |f| is {image:e}"));
        }
    }
    if let Some(solution) = solution {
        let (far, right) = (distance(z, start), distance(solution, start));
        if far > 10.0 * right + slack + rule.absolute {
            return Err(format!(
                "{far:.2e} from the start, the solution is at {right:.2e}, norms {norms:?}"
            ));
        }
    }
    Ok(())
}

fn rows(t: Tensor<2>) -> Vec<Vec<f64>> {
    let width = t.dims()[1];
    let values: Vec<f64> = t.into_data().iter::<f64>().collect();
    values.chunks(width).map(<[f64]>::to_vec).collect()
}

/// The first element and the others, as branches of a state.
fn branches(z: Tensor<2>) -> Vec<Tensor<2>> {
    match z.dims()[1] {
        1 => vec![z],
        n => z.split_with_sizes(vec![1, n - 1], 1),
    }
}

/// The state and the report of a solve from `start`. Linear methods solve the backward pass of an affine
/// map, u = J'u + f(0), with a symmetric J.
fn solve_by(
    method: &LinearMethod,
    (way, rule): (&Way, &Termination),
    maps: &Maps,
    start: Tensor<2>,
) -> (Tensor<2>, Report) {
    let map = |z: Vec<Tensor<2>>, maps: Maps| branches(maps.apply(Tensor::cat(z, 1)));
    let mut config = EquilibriumConfig::new().with_freezing(match way.freeze {
        true => Freezing::Assumed,
        false => Freezing::Off,
    });
    let LinearMethod::FixedPoint(method) = method else {
        let mut linear = LinearSolver::from(method.clone());
        linear.termination = rule.clone();
        config.forward = Solver::plain().with_max_steps(0);
        config.gradient = Gradient::implicit(linear);
        let map = Declared::new(map).with_structure(Structure::Symmetric);
        let from = Start {
            state: branches(start.clone()),
            adjoint: Some(start),
        };
        let out = config.init().solve_from(&map, maps.tracked(), from);
        let z = Tensor::cat(out.state, 1);
        let g = maps.constant().autodiff();
        (z * g).sum().backward();
        let adjoint = out.adjoint;
        return (adjoint.solution().unwrap(), adjoint.report().unwrap());
    };
    config.forward = Solver::from(method.clone());
    config.forward.termination = rule.clone();
    let out = config.init().solve_map(&map, maps.clone(), branches(start));
    (Tensor::cat(out.state, 1), out.forward)
}

/// Solves a batch; counts, and describes what was called converged and is not.
fn solve(batch: &Batch, method: &LinearMethod, way: &Way, counts: &mut Counts) -> Vec<String> {
    let device = Device::flex();
    let maps = batch.maps.to(&device, way.dtype);
    let [count, n] = batch.start.dims();
    let start = Tensor::<2>::from_data(batch.start.to_data(), (&device, way.dtype));
    let rule = Termination {
        relative: way.relative,
        norm: way.norm,
        branches: way.branches,
        check: way.check,
        max_steps: way.max_steps,
        ..Termination::default()
    };
    let run = || solve_by(method, (way, &rule), &maps, start);
    let (state, report) = if way.portable { portably(run) } else { run() };
    let carried = !matches!(method, LinearMethod::FixedPoint(_));
    let state = state.into_data();
    let state = Tensor::<2>::from_data(state, (&device, DType::F64));
    let image = batch.maps.apply(state.clone());
    let residual = image.clone() - state.clone();
    let norm = |v: &[f64]| match way.norm {
        Norm::Max => v.iter().fold(0.0, |m: f64, x| m.max(x.abs())),
        Norm::Rms => length(v) / (n as f64).sqrt(),
        _ => length(v),
    };
    // The parts of a sample that are judged separately.
    let cut = usize::from(way.branches == Branches::Each && n > 1);
    let parts = [0..cut, cut..n];
    let (z, z0, f, r) = (
        rows(state),
        rows(batch.start.clone()),
        rows(image),
        rows(residual),
    );
    let mut wrong = Vec::new();
    for i in 0..count {
        counts.count(report.status[i], batch.solutions[i].is_some());
        if !report.status[i].is_converged() {
            continue;
        }
        let of = |v: &[Vec<f64>]| {
            let parts = parts.clone();
            parts.map(|p| norm(&v[i][p]))
        };
        let norms: Vec<[f64; 2]> = of(&r)
            .into_iter()
            .zip(of(&f))
            .map(|(r, f)| [r, f])
            .collect();
        let solution = batch.solutions[i].as_ref();
        if let Err(what) = verify(&norms, &z[i], &z0[i], solution, (way, carried), &rule) {
            wrong.push(format!(
                "{}, map {i} by {method:?}, {way:?}: {what}",
                batch.name
            ));
        }
    }
    wrong
}

fn ways() -> Vec<Way> {
    let way = Way {
        dtype: DType::F32,
        portable: false,
        freeze: false,
        check: Check::Every(1),
        norm: Norm::L2,
        branches: Branches::Together,
        relative: 1e-4,
        max_steps: 120,
    };
    let mut ways = Vec::new();
    for dtype in [DType::F32, DType::F64] {
        let way = Way { dtype, ..way };
        ways.push(way);
        ways.push(Way {
            freeze: true,
            relative: 1e-6,
            ..way
        });
        ways.push(Way {
            portable: true,
            branches: Branches::Each,
            ..way
        });
        ways.push(Way {
            portable: true,
            check: Check::Every(3),
            freeze: true,
            ..way
        });
        ways.push(Way {
            norm: Norm::Max,
            check: Check::Every(2),
            relative: 1e-3,
            ..way
        });
    }
    ways
}

/// One line about how the solves of a method ended, and the false reports of convergence.
fn outcomes(batches: &[Batch], method: &LinearMethod, way: &Way) -> (String, Vec<String>) {
    let mut counts = Counts::default();
    let each = |batch: &Batch| solve(batch, method, way, &mut counts);
    let wrong: Vec<String> = batches.iter().flat_map(each).collect();
    let ([converged, diverged, stalled, limit], found, known) =
        (counts.ends, counts.found, counts.known);
    let line = format!(
        "converged {converged:4} (wrong {:2}), diverged {diverged:4}, stalled {stalled:3}, limit \
         {limit:3}, found {found} of {known} known solutions: {method:?} {way:?}",
        wrong.len()
    );
    // Solvers that never report convergence would pass, too, so these must.
    let able = [
        LinearMethod::FixedPoint(AndersonConfig::new().into()),
        LinearMethod::FixedPoint(BroydenConfig::new().into()),
    ];
    assert!(!able.contains(method) || 10 * found >= 9 * known, "{line}");
    (line, wrong)
}

/// Fails with the false reports of convergence.
#[allow(clippy::print_stdout, reason = "tests print what they measure")]
fn check(batches: &[Batch], methods: Vec<LinearMethod>) {
    let count: usize = batches.iter().map(|b| b.solutions.len()).sum();
    assert_eq!(count, 1000);
    let each = |method: &LinearMethod| {
        let of = |way| outcomes(batches, method, &way);
        ways().into_iter().map(of).collect::<Vec<_>>()
    };
    let found: Vec<_> = side_by_side(methods.iter().collect(), each).concat();
    let (lines, wrong): (Vec<String>, Vec<Vec<String>>) = found.into_iter().unzip();
    println!("{}", lines.join("\n"));
    let wrong = wrong.concat();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_is_called_converged_is() {
    let methods = methods().into_iter().map(LinearMethod::FixedPoint);
    check(&thousand(1), methods.collect());
}

/// Conjugate gradients and MINRES; some systems are indefinite or singular.
#[test]
fn what_is_called_converged_is_for_linear_systems() {
    let methods = vec![LinearMethod::ConjugateGradients, LinearMethod::Minres];
    check(&symmetric(2), methods);
}
