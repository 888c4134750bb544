//! When the loop over a fixed-point iteration ends: by its residuals, or at its limit of steps.

use burn_deq::{Branches, Norm, Termination};
use mopteq::graph::Iterate;

use super::parts::Scope;

/// The axes of everything but the batch.
const AXES: [i64; 3] = [1, 2, 3];
/// A loop ends after this many times the solver's largest number of steps, because plain iteration
/// takes more steps than an accelerated solver.
pub const LOOP_FACTOR: usize = 4;

/// Largest number of steps of a loop.
pub(super) fn loop_limit(iterate: &Iterate) -> usize {
    iterate.rule.max_steps.saturating_mul(LOOP_FACTOR)
}

/// Whether each sample has met the rule, and its relative residual. `elements` holds the number of
/// elements in each branch of a sample.
pub(super) fn judge(
    scope: &mut Scope,
    rule: &Termination,
    elements: &[usize],
    [state, image]: [&[String]; 2],
) -> (String, String) {
    let differences: Vec<String> = (state.iter().zip(image))
        .map(|(z, f)| scope.node("Sub", &[f, z], Vec::new()))
        .collect();
    match rule.branches {
        Branches::Together => {
            let residual = norm(scope, rule.norm, &differences);
            let size = norm(scope, rule.norm, image);
            compare(scope, rule, [residual, size], elements.iter().sum())
        }
        Branches::Each => {
            let pairs = differences.iter().zip(image).zip(elements);
            let verdicts = pairs.map(|((difference, f), count)| {
                let residual = norm(scope, rule.norm, std::slice::from_ref(difference));
                let size = norm(scope, rule.norm, std::slice::from_ref(f));
                compare(scope, rule, [residual, size], *count)
            });
            let verdicts: Vec<(String, String)> = verdicts.collect();
            let all = verdicts.into_iter().reduce(|(done, residual), (d, r)| {
                let done = scope.node("And", &[&done, &d], Vec::new());
                (done, scope.node("Max", &[&residual, &r], Vec::new()))
            });
            all.unwrap_or_default()
        }
    }
}

/// |residual| <= absolute + relative |f|, and their ratio. With the Euclidean norm in place of the
/// root mean square, the absolute tolerance grows by the square root of the number of elements.
fn compare(
    scope: &mut Scope,
    rule: &Termination,
    [residual, size]: [String; 2],
    elements: usize,
) -> (String, String) {
    let absolute = match rule.norm {
        Norm::Rms => rule.absolute * (elements as f64).sqrt(),
        Norm::L2 | Norm::Max => rule.absolute,
    };
    let relative = scope.number(rule.relative);
    let absolute = scope.number(absolute);
    let allowed = scope.node("Mul", &[&size, &relative], Vec::new());
    let allowed = scope.node("Add", &[&allowed, &absolute], Vec::new());
    let done = scope.node("LessOrEqual", &[&residual, &allowed], Vec::new());
    // 0 / 0 is 0 here.
    let least = scope.number(f64::from(f32::MIN_POSITIVE));
    let size = scope.node("Max", &[&size, &least], Vec::new());
    (done, scope.node("Div", &[&residual, &size], Vec::new()))
}

/// The norm of each sample over all of these, `[batch, 1, 1, 1]`.
fn norm(scope: &mut Scope, norm: Norm, parts: &[String]) -> String {
    let axes = scope.integers(&AXES);
    let each: Vec<String> = parts
        .iter()
        .map(|x| match norm {
            Norm::Max => {
                let size = scope.node("Abs", &[x], Vec::new());
                scope.node("ReduceMax", &[&size, &axes], Vec::new())
            }
            Norm::L2 | Norm::Rms => scope.node("ReduceSumSquare", &[x, &axes], Vec::new()),
        })
        .collect();
    let all: Vec<&str> = each.iter().map(String::as_str).collect();
    match norm {
        Norm::Max => scope.node("Max", &all, Vec::new()),
        Norm::L2 | Norm::Rms => {
            let sum = scope.node("Sum", &all, Vec::new());
            scope.node("Sqrt", &[&sum], Vec::new())
        }
    }
}

/// A vector of these values, one for each sample.
pub(super) fn per_sample(scope: &mut Scope, name: &str, output: &str) {
    let axes = scope.integers(&AXES);
    scope.named("Squeeze", &[name, &axes], &[output], Vec::new());
}
