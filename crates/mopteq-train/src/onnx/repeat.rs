//! A fixed-point iteration as a loop that ends by its residuals.

use mopteq::graph::{Iterate, Value};

use burn_deq::{Branches, Norm, Termination};

use super::parts::{Scope, graph, int, truth, value};
use super::proto::{TensorProto, ValueInfoProto, data_type};
use super::translate::{CARRIED, Solve, Translation};

/// The axes of everything but the batch.
const AXES: [i64; 3] = [1, 2, 3];

impl Translation<'_> {
    /// Iterates each sample until it meets the rule; then it stays as it is, so no result depends
    /// on the batch.
    pub(super) fn until_converged(
        &mut self,
        scope: &mut Scope,
        iterate: &Iterate,
        first: &[Value],
    ) -> Vec<String> {
        let count = self.solves.len() + 1;
        let prefix = format!("loop{count}_");
        // Of each sample: whether it moves, the steps so far, the last relative residual.
        let whole = |value: i64| TensorProto {
            dims: vec![1],
            data_type: Some(data_type::INT64),
            name: None,
            raw_data: Some(value.to_le_bytes().to_vec()),
        };
        let shape = [1, 1, 1];
        let carried = [
            self.filled(scope, &shape, Some(truth(vec![1]))),
            // f(0) was the first step.
            self.filled(scope, &shape, Some(whole(1))),
            self.filled(scope, &shape, None),
        ];
        let start = self.names(first);
        let body = self.body(iterate, &prefix);
        let limit = super::loop_limit(iterate).saturating_sub(1);
        let limit = scope.integer(i64::try_from(limit).unwrap_or(i64::MAX));
        let truth = scope.truth();
        let inputs: Vec<&str> = [&limit, &truth]
            .into_iter()
            .chain(&carried)
            .chain(&start)
            .map(String::as_str)
            .collect();
        let made = |scope: &mut Scope, count: usize| -> Vec<String> {
            (0..count).map(|_| scope.fresh()).collect()
        };
        let reports = made(scope, CARRIED.len());
        let state = made(scope, start.len());
        let outputs: Vec<&str> = reports.iter().chain(&state).map(String::as_str).collect();
        scope.named("Loop", &inputs, &outputs, vec![graph("body", body)]);
        self.solves.push(Solve {
            steps: reports[1].clone(),
            residual: reports[2].clone(),
        });
        state
    }

    fn body(&mut self, iterate: &Iterate, prefix: &str) -> super::proto::GraphProto {
        let mut scope = Scope::new(prefix);
        let name = |what: &str| format!("{prefix}{what}");
        let names = ["moving", "steps", "residual"].map(name);
        let [moving, steps, residual] = names.each_ref().map(String::as_str);
        let state: Vec<String> = (0..iterate.state.len())
            .map(|i| name(&format!("state{i}")))
            .collect();
        self.set(&iterate.state, state.clone());
        self.nodes(&mut scope, &iterate.nodes);
        let image = self.names(&iterate.image);

        let (done, relative) = self.judge(&mut scope, iterate, &state, &image);
        let going = scope.node("Not", &[&done], Vec::new());
        let still = scope.node("And", &[moving, &going], Vec::new());
        let to_whole = vec![int("to", i64::from(data_type::INT64))];
        let one = scope.node("Cast", &[moving], to_whole.clone());
        let counted = scope.node("Add", &[steps, &one], Vec::new());
        let last = scope.node("Where", &[moving, &relative, residual], Vec::new());
        let moved: Vec<String> = (state.iter().zip(&image))
            .map(|(z, f)| scope.node("Where", &[moving, f, z], Vec::new()))
            .collect();
        let left = scope.node("Cast", &[&still], to_whole);
        let left = scope.node("ReduceSum", &[&left], vec![int("keepdims", 0)]);
        let to_truth = vec![int("to", i64::from(data_type::BOOL))];
        let again = scope.node("Cast", &[&left], to_truth);

        let flat: &[usize] = &[1, 1, 1];
        let of = |names: &[&str]| -> Vec<ValueInfoProto> {
            let kinds = names.iter().zip(CARRIED);
            kinds
                .map(|(name, kind)| value(name, kind, Some(flat), ""))
                .collect()
        };
        let branches = |names: &[String]| -> Vec<ValueInfoProto> {
            let pairs = names.iter().zip(&iterate.state);
            pairs
                .map(|(name, z)| value(name, data_type::FLOAT, Some(self.shape(*z)), ""))
                .collect()
        };
        let (count, condition) = (name("count"), name("condition"));
        let mut input = vec![
            value(&count, data_type::INT64, None, ""),
            value(&condition, data_type::BOOL, None, ""),
        ];
        input.extend(of(&[moving, steps, residual]));
        input.extend(branches(&state));
        let mut output = vec![value(&again, data_type::BOOL, None, "")];
        output.extend(of(&[&still, &counted, &last]));
        output.extend(branches(&moved));
        scope.finish(&name("body"), input, output)
    }

    /// Whether each sample has met the rule, and its relative residual.
    fn judge(
        &self,
        scope: &mut Scope,
        iterate: &Iterate,
        state: &[String],
        image: &[String],
    ) -> (String, String) {
        let rule = &iterate.rule;
        let differences: Vec<String> = (state.iter().zip(image))
            .map(|(z, f)| scope.node("Sub", &[f, z], Vec::new()))
            .collect();
        let elements: Vec<usize> = (iterate.state.iter())
            .map(|z| self.shape(*z).iter().product())
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
                    compare(scope, rule, [residual, size], count)
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
}

/// |residual| <= absolute + relative |f|, and their ratio. With the Euclidean norm in place of the
/// root mean square, the absolute tolerance grows by the root of the number of elements.
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

/// A vector of these, one for each sample.
pub(super) fn per_sample(scope: &mut Scope, name: &str, output: &str) {
    let axes = scope.integers(&AXES);
    scope.named("Squeeze", &[name, &axes], &[output], Vec::new());
}
