//! The catalogue: fixed-point problems as data, which every solver must solve.
//!
//! A problem is f(z, data) with constants that are shared by all samples. Its solution is known in
//! closed form or from an independent computation here.

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::{
    AndersonConfig, AndersonType, BroydenConfig, EquilibriumConfig, Method, Report, Shared, Solver,
    Termination,
};

use crate::support::{Affine, Numbers, orthogonal};

pub type Data = Vec<Tensor<2>>;

/// A problem of the catalogue.
#[derive(Clone)]
pub struct Problem {
    pub name: &'static str,
    pub f: fn(Tensor<2>, Data) -> Tensor<2>,
    pub data: Vec<(Vec<f64>, [usize; 2])>,
    pub start: (Vec<f64>, [usize; 2]),
    pub solution: Vec<f64>,
    /// Relative and absolute tolerance of the solve, and the accepted error of the solution.
    pub relative: f64,
    pub absolute: f64,
    pub error: f64,
    /// Largest number of evaluations that an accelerated solver may take.
    pub limit: usize,
    /// Whether f is a contraction. Plain iteration must then solve it, too, and more slowly.
    pub contraction: bool,
}

impl Problem {
    fn new(name: &'static str, f: fn(Tensor<2>, Data) -> Tensor<2>, solution: Vec<f64>) -> Self {
        let n = solution.len();
        Self {
            name,
            f,
            data: Vec::new(),
            start: (vec![0.0; n], [1, n]),
            solution,
            relative: 1e-9,
            absolute: 1e-12,
            error: 1e-8,
            limit: 60,
            contraction: true,
        }
    }

    fn data(mut self, data: Vec<f64>, shape: [usize; 2]) -> Self {
        self.data.push((data, shape));
        self
    }

    fn start(mut self, start: Vec<f64>) -> Self {
        self.start.0 = start;
        self
    }

    fn no_contraction(mut self) -> Self {
        self.contraction = false;
        self
    }

    fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    fn tolerances(mut self, relative: f64, absolute: f64, error: f64) -> Self {
        (self.relative, self.absolute, self.error) = (relative, absolute, error);
        self
    }

    /// Solves the problem; returns the state and the report.
    pub fn solve(&self, solver: &Solver, place: &Place) -> (Vec<f64>, Report) {
        let data: Data = self.data.iter().map(|(v, s)| place.tensor(v, *s)).collect();
        let start = place.tensor(&self.start.0, self.start.1);
        let f = self.f;
        let map = move |z: Tensor<2>, x: Shared<Data>| f(z, x.0);
        let solver = Solver {
            termination: Termination {
                relative: self.relative.max(place.floor),
                absolute: self.absolute.max(place.floor * 1e-2),
                ..solver.termination.clone()
            },
            ..solver.clone()
        };
        let deq = EquilibriumConfig::new().with_forward(solver).init();
        let out = deq.solve_map(&map, Shared(data), start);
        (crate::support::values(out.state), out.forward)
    }

    pub fn error_of(&self, z: &[f64]) -> f64 {
        let square = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>();
        let error = square(&mut z.iter().zip(&self.solution).map(|(a, b)| a - b)).sqrt();
        error / square(&mut self.solution.iter().copied()).sqrt().max(1.0)
    }
}

/// Where tests run: f64 on Flex, or f32 on any device, with the tolerance below which rounding
/// error dominates.
pub struct Place {
    pub device: Device,
    pub dtype: DType,
    pub floor: f64,
}

impl Place {
    pub fn flex() -> Self {
        Self {
            device: Device::flex(),
            dtype: DType::F64,
            floor: 0.0,
        }
    }

    pub fn f32_on(device: Device) -> Self {
        Self {
            device,
            dtype: DType::F32,
            floor: 2e-6,
        }
    }

    pub fn tensor(&self, values: &[f64], shape: [usize; 2]) -> Tensor<2> {
        let data = TensorData::new(values.to_vec(), shape);
        Tensor::from_data(data, (&self.device, self.dtype))
    }

    /// The larger of a tolerance and what the type can achieve. The error of the solution exceeds
    /// the residual by a factor of 1 / (1 - slope).
    pub fn error(&self, error: f64) -> f64 {
        error.max(self.floor * 1e3)
    }
}

/// All accelerated solvers. Each must solve every problem.
pub fn accelerated() -> Vec<(&'static str, Solver)> {
    let anderson = AndersonConfig::new();
    [
        ("Anderson II", Method::from(anderson.clone())),
        (
            "Anderson II, m = 10",
            anderson.clone().with_history(10).into(),
        ),
        (
            "Anderson I, m = 10",
            anderson
                .clone()
                .with_kind(AndersonType::I)
                .with_history(10)
                .into(),
        ),
        (
            "Anderson II, relaxed",
            anderson.with_history(10).with_damping(0.9).into(),
        ),
        ("Broyden", BroydenConfig::new().into()),
    ]
    .map(|(name, method)| (name, Solver::from(method).with_max_steps(400)))
    .into()
}

/// Gaussian elimination with pivoting, as the reference for affine problems: a x = b.
pub fn linear_solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let p = (k..n)
            .max_by(|i, j| a[*i][k].abs().total_cmp(&a[*j][k].abs()))
            .unwrap();
        a.swap(k, p);
        b.swap(k, p);
        let row = a[k].clone();
        for i in k + 1..n {
            let factor = a[i][k] / row[k];
            a[i].iter_mut()
                .zip(&row)
                .for_each(|(a, r)| *a -= factor * r);
            b[i] -= factor * b[k];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * b[j]).sum();
        b[i] = (b[i] - known) / a[i][i];
    }
    b
}

/// z = z A + x for a row-major A.
fn affine(name: &'static str, a: Vec<f64>, x: Vec<f64>) -> Problem {
    let n = x.len();
    let system = (0..n)
        .map(|j| {
            (0..n)
                .map(|i| f64::from(i == j) - a[i * n + j])
                .collect::<Vec<_>>()
        })
        .collect();
    let solution = linear_solve(system, x.clone());
    Problem::new(name, |z, d| z.matmul(d[0].clone()) + d[1].clone(), solution)
        .data(a, [n, n])
        .data(x, [1, n])
}

/// The scalar fixed point of f, by Newton's method with a difference quotient.
fn newton(f: impl Fn(f64) -> f64, mut z: f64) -> f64 {
    for _ in 0..100 {
        let h = 1e-7;
        let slope = (f(z + h) - f(z - h)) / (2.0 * h);
        z -= (z - f(z)) / (1.0 - slope);
    }
    z
}

/// All problems of the catalogue (the numbers are its rows), and similar ones.
pub fn catalogue() -> Vec<Problem> {
    let mut problems = Vec::new();
    // 1. z = cos z + theta.
    let dottie = 0.739_085_133_215_160_6;
    let half_pi = std::f64::consts::FRAC_PI_2;
    for (name, theta, solution) in [
        ("cosine", 0.0, dottie),
        ("shifted cosine", half_pi, half_pi),
    ] {
        let cosine = Problem::new(name, |z, d| z.cos() + d[0].clone(), vec![solution]);
        // jaxopt takes 26 for 1e-6.
        let cosine = cosine.data(vec![theta], [1, 1]).limit(26);
        // At pi / 2, the slope is -1.
        problems.push(if theta == 0.0 {
            cosine
        } else {
            cosine.no_contraction()
        });
    }
    // Rows 2 and 3.
    let slope = 0.961_179_751_371_539_4;
    problems.push(Problem::new("tanh", |z, _| (z + 1.0).tanh(), vec![slope]));
    let heron = |z: Tensor<2>, _: Data| (z.clone() + z.recip() * 2.0) * 0.5;
    problems.push(Problem::new("Heron", heron, vec![2f64.sqrt()]).start(vec![0.5]));
    // 4. Geometric decay, absolute tolerance 1e-5.
    let decay = Problem::new("decay", |z, d| z * d[0].clone(), vec![0.0; 3]);
    let decay = decay
        .data(vec![0.9, 0.99, 0.999], [1, 3])
        .start(vec![1.0, 0.4, -0.2]);
    // Near the fixed point, the residual is a thousandth of z.
    problems.push(decay.tolerances(0.0, 9.9e-6, 1e-2));
    // 6. Rotations about a centre: not a contraction at any angle.
    for divisor in [2.0, 3.0, 4.0, 5.0, 6.0, 1.27, 1.73] {
        let (s, c) = (std::f64::consts::PI / divisor).sin_cos();
        let centre = vec![0.7, -1.3];
        let rotation = Problem::new(
            "rotation",
            |z, d| (z - d[1].clone()).matmul(d[0].clone()) + d[1].clone(),
            centre.clone(),
        );
        problems.push(
            rotation
                .data(vec![c, s, -s, c], [2, 2])
                .data(centre, [1, 2])
                .start(vec![3.0, 2.0])
                .no_contraction(),
        );
    }
    // 7. Random symmetric affine contraction.
    let mut numbers = Numbers::new(21);
    let spectrum = |n: usize, low: f64, high: f64| -> Vec<f64> {
        (0..n)
            .map(|k| low + (high - low) * k as f64 / (n - 1) as f64)
            .collect()
    };
    let a = Affine::matrix(&spectrum(200, -0.49, 0.49), 5);
    problems.push(affine("affine", a, numbers.vec(200)));
    // 8. Slow affine.
    let a = Affine::matrix(&spectrum(200, -0.95, 0.95), 3);
    let slow = affine("slow affine", a, numbers.vec(200)).limit(120);
    // The error is up to 20 times the residual.
    problems.push(slow.tolerances(1e-9, 1e-12, 1e-7));
    // 11. Slope -2.
    let expanding = Problem::new("slope -2", |z, _| z * -2.0 + 1.0, vec![1.0 / 3.0]);
    problems.push(expanding.no_contraction());

    // Similar problems.
    let kepler = |e: f64, m: f64| newton(|z| m + e * z.sin(), m);
    let eccentric = Problem::new(
        "Kepler, e = 0.9",
        |z, _| z.sin() * 0.9 + 0.5,
        vec![kepler(0.9, 0.5)],
    );
    problems.push(eccentric);
    let logistic = Problem::new(
        "logistic map, no stable point",
        |z, _| z.clone() * (z * -1.0 + 1.0) * 3.5,
        vec![1.0 - 1.0 / 3.5],
    );
    problems.push(logistic.start(vec![0.4]).no_contraction());
    // A non-normal contraction: residuals grow before they fall.
    let n = 12;
    let mut a = vec![0.0; n * n];
    for i in 0..n {
        a[i * n + i] = 0.5;
        if i + 1 < n {
            a[i * n + i + 1] = 0.8;
        }
    }
    let jordan = affine("non-normal affine", a, vec![1.0; n]).limit(120);
    // Powers of the Jacobian grow before they fall, so this is not a contraction in the Euclidean
    // norm.
    problems.push(jordan.tolerances(1e-9, 1e-12, 1e-6).no_contraction());
    // Random stochastic matrix with teleportation: a PageRank.
    let n = 40;
    let mut a: Vec<f64> = numbers.vec(n * n).iter().map(|v| v.abs().powi(4)).collect();
    for row in a.chunks_mut(n) {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|v| *v *= 0.85 / sum);
    }
    problems.push(affine("PageRank", a, vec![0.15 / n as f64; n]));
    // A discretised Bratu problem, u'' + e^u = 0, by Jacobi iteration.
    problems.push(bratu(15));
    // Eigenvalues of the Jacobian on a circle of radius 0.98.
    let q = orthogonal(5, 9);
    let mut a = vec![0.0; 25];
    for i in 0..5 {
        for j in 0..5 {
            a[i * 5 + j] = 0.98 * (0..5).map(|k| q[k][i] * q[(k + 1) % 5][j]).sum::<f64>();
        }
    }
    let cycle = affine("slow cycle of 5", a, numbers.vec(5));
    problems.push(cycle.tolerances(1e-9, 1e-12, 1e-6));
    problems
}

fn bratu(n: usize) -> Problem {
    let h2 = 1.0 / ((n + 1) as f64).powi(2);
    let mut mean = vec![0.0; n * n];
    for i in 1..n {
        mean[i * n + i - 1] = 0.5;
        mean[(i - 1) * n + i] = 0.5;
    }
    // Newton's method on the same equations.
    let mut u = vec![0.0; n];
    for _ in 0..30 {
        let at = |u: &[f64], i: isize| {
            if i < 0 || i >= n as isize {
                0.0
            } else {
                u[i as usize]
            }
        };
        let g: Vec<f64> = (0..n as isize)
            .map(|i| at(&u, i) - 0.5 * (at(&u, i - 1) + at(&u, i + 1)) - 0.5 * h2 * at(&u, i).exp())
            .collect();
        let jacobian = (0..n)
            .map(|i| {
                (0..n)
                    .map(|j| match i.abs_diff(j) {
                        0 => 1.0 - 0.5 * h2 * u[i].exp(),
                        1 => -0.5,
                        _ => 0.0,
                    })
                    .collect()
            })
            .collect();
        let step = linear_solve(jacobian, g);
        u.iter_mut().zip(step).for_each(|(u, s)| *u -= s);
    }
    let f = |z: Tensor<2>, d: Data| z.clone().matmul(d[0].clone()) + z.exp() * d[1].clone();
    let problem = Problem::new("Bratu", f, u).data(mean, [n, n]);
    let problem = problem.data(vec![0.5 * h2], [1, 1]).limit(150);
    problem.tolerances(1e-9, 1e-12, 1e-7)
}
