//! The Rust side of `benches/peers/solvers.py`, which starts it and explains how to run it. Reads
//! one request per line of JSON on standard input, solves a problem that the script wrote to a
//! folder, and answers with a line of JSON.
#![allow(clippy::print_stdout, reason = "the answers go to standard output")]

use std::collections::HashMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::prelude::*;
use burn::tensor::DType;
use burn_deq::{
    AndersonConfig, AndersonType, BroydenConfig, EquilibriumConfig, Freezing, Gradient, Method,
    Shared, Solver,
};
use serde::Deserialize;

/// A problem: z = f(z) for a batch of samples, as the script describes it in `NAME.json`. The
/// arrays are in `NAME.KEY`, row-major f64 in the machine's (little) endianness.
#[derive(Deserialize)]
struct Problem {
    map: String,
    batch: usize,
    width: usize,
    single: bool,
    relative: f64,
    max_steps: usize,
}

/// One request. Absent fields take the library's defaults.
#[derive(Deserialize)]
struct Request {
    problem: String,
    method: String,
    history: Option<usize>,
    /// Anderson's type: I or II.
    kind: Option<String>,
    regularization: Option<f64>,
    damping: Option<f64>,
    safeguard: Option<f64>,
    /// Whether finished samples leave the batch.
    #[serde(default)]
    freeze: bool,
    /// Whether to differentiate the loss sum(z * c), and by how many unrolled steps if not
    /// implicitly.
    #[serde(default)]
    backward: bool,
    unrolled: Option<usize>,
    /// Where to write the state and the gradients; nowhere by default.
    output: Option<String>,
}

/// The tensors of a problem: scale s, matrix a, input x, start z, cotangent c.
type Data = HashMap<&'static str, Tensor<2>>;

fn f(map: &str, z: Tensor<2>, [s, a, x]: [Tensor<2>; 3]) -> Tensor<2> {
    match map {
        "affine" => z.matmul(a) + x,
        "scaled affine" => z.matmul(a) * s + x,
        "tanh" => (z.matmul(a) + x).tanh(),
        "cosine" => z.cos(),
        "shifted tanh" => (z + 1.0).tanh(),
        "heron" => (z.clone() + z.recip() * 2.0) * 0.5,
        "slope -2" => z * -2.0 + 1.0,
        "kepler" => z.sin() * s + x,
        _ => panic!("unknown map {map}"),
    }
}

fn load(folder: &Path, name: &str) -> Result<(Problem, Data), Box<dyn Error>> {
    let text = std::fs::read_to_string(folder.join(format!("{name}.json")))?;
    let problem: Problem = serde_json::from_str(&text)?;
    let dtype = if problem.single {
        DType::F32
    } else {
        DType::F64
    };
    let (b, n) = (problem.batch, problem.width);
    let mut data = Data::new();
    for (key, shape) in [
        ("s", [b, 1]),
        ("a", [n, n]),
        ("x", [b, n]),
        ("z", [b, n]),
        ("c", [b, n]),
    ] {
        let bytes = std::fs::read(folder.join(format!("{name}.{key}")))?;
        let values = bytes
            .as_chunks::<8>()
            .0
            .iter()
            .map(|v| f64::from_le_bytes(*v));
        let values = TensorData::new(values.collect::<Vec<_>>(), shape);
        data.insert(key, Tensor::from_data(values, (&Device::flex(), dtype)));
    }
    Ok((problem, data))
}

fn method(request: &Request) -> Result<Method, Box<dyn Error>> {
    let damping = request.damping.unwrap_or(1.0);
    Ok(match request.method.as_str() {
        "plain" => Method::Plain { damping },
        "Anderson" => {
            let d = AndersonConfig::new();
            AndersonConfig {
                history: request.history.unwrap_or(d.history),
                kind: match request.kind.as_deref() {
                    Some("I") => AndersonType::I,
                    Some("II") => AndersonType::II,
                    _ => d.kind,
                },
                regularization: request.regularization.unwrap_or(d.regularization),
                damping,
                safeguard: request.safeguard.unwrap_or(d.safeguard),
                ..d
            }
            .into()
        }
        "Broyden" => {
            let d = BroydenConfig::new();
            BroydenConfig {
                history: request.history.unwrap_or(d.history),
                damping,
                safeguard: request.safeguard.unwrap_or(d.safeguard),
            }
            .into()
        }
        other => return Err(format!("unknown method {other}").into()),
    })
}

fn answer(
    folder: &Path,
    problem: &Problem,
    data: &Data,
    r: &Request,
) -> Result<String, Box<dyn Error>> {
    let mut solver = Solver::from(method(r)?)
        .with_relative(problem.relative)
        .with_absolute(0.0)
        .with_max_steps(problem.max_steps);
    solver.termination.patience = problem.max_steps;
    let gradient = match r.unrolled {
        Some(steps) => Gradient::Unrolled {
            steps,
            damping: 1.0,
        },
        None => Gradient::default(),
    };
    let deq = EquilibriumConfig::new()
        .with_forward(solver)
        .with_gradient(gradient)
        .with_freezing(if r.freeze {
            Freezing::Assumed
        } else {
            Freezing::Off
        })
        .init();
    // Calls of the map and the total number of rows.
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let (seen, name) = (counts.clone(), problem.map.clone());
    let map = move |z: Tensor<2>, (s, a, x): (Tensor<2>, Shared<Tensor<2>>, Tensor<2>)| {
        seen[0].fetch_add(1, Ordering::Relaxed);
        seen[1].fetch_add(z.dims()[0], Ordering::Relaxed);
        f(&name, z, [s, a.0, x])
    };
    let leaf = |key| -> Tensor<2> {
        let tensor: Tensor<2> = data[key].clone();
        if r.backward {
            tensor.autodiff().require_grad()
        } else {
            tensor
        }
    };
    let (a, x) = (leaf("a"), leaf("x"));
    let clock = Instant::now();
    let out = deq.solve_map(
        &map,
        (data["s"].clone(), Shared(a.clone()), x.clone()),
        data["z"].clone(),
    );
    let mut results = vec![out.state.clone()];
    if r.backward {
        let loss = (out.state * data["c"].clone().autodiff()).sum();
        let gradients = loss.backward();
        results.extend(
            [&a, &x]
                .into_iter()
                .filter_map(|leaf| leaf.grad(&gradients)),
        );
    }
    let seconds = clock.elapsed().as_secs_f64();
    if let Some(output) = &r.output {
        let values = results
            .into_iter()
            .map(|t| t.without_autodiff().try_into_data());
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|d| d.iter::<f64>())
            .flat_map(f64::to_le_bytes)
            .collect();
        std::fs::write(folder.join(output), bytes)?;
    }
    let [calls, rows] = [0, 1].map(|i: usize| counts[i].load(Ordering::Relaxed));
    Ok(serde_json::json!({"seconds": seconds, "calls": calls, "rows": rows}).to_string())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os()
        .nth(1)
        .ok_or("give the folder with the problems")?;
    let folder = Path::new(&folder);
    let mut problems = HashMap::new();
    for line in std::io::stdin().lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let name = request.problem.clone();
        if !problems.contains_key(&name) {
            problems.insert(name.clone(), load(folder, &name)?);
        }
        let (problem, data) = &problems[&name];
        println!("{}", answer(folder, problem, data, &request)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}
