//! From the operations of a network to those of ONNX.

use std::collections::HashMap;

use burn::tensor::Tensor;
use mopteq::graph::{Graph, Iterate, Node, Op, Value};

use super::parts::{Scope, float, graph, int, ints, tensor, text, truth, value, values};
use super::proto::{GraphProto, TensorProto, ValueInfoProto, data_type};
use super::repeat::{judge, loop_limit};

/// Element types of what a loop carries.
const CARRIED: [i32; 3] = [data_type::BOOL, data_type::INT64, data_type::FLOAT];

/// How equilibria are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iteration {
    /// By this many plain steps z -> f(z) from 0, for every picture.
    Steps(usize),
    /// By a loop until the rule of the model's own solver is met, or its largest number of steps
    /// times [`LOOP_FACTOR`](super::repeat::LOOP_FACTOR) is reached.
    Loop,
}

/// What a loop reports of its solve: names of `[batch, 1, 1, 1]` values.
pub(super) struct Solve {
    pub(super) steps: String,
    pub(super) residual: String,
}

/// Names of the values of a graph, while it is written.
pub(super) struct Translation<'a> {
    graph: &'a Graph,
    names: HashMap<Value, String>,
    iteration: Iteration,
    pub(super) solves: Vec<Solve>,
    /// Name of the input, whose first dimension is the batch.
    input: &'a str,
}

impl<'a> Translation<'a> {
    /// `input` is the graph's input in the file, and `normalised` what the network takes.
    pub(super) fn new(
        graph: &'a Graph,
        iteration: Iteration,
        input: &'a str,
        normalised: String,
    ) -> Self {
        Self {
            graph,
            names: HashMap::from([(graph.input, normalised)]),
            iteration,
            solves: Vec::new(),
            input,
        }
    }

    /// The name that a value has now; a state has another one after each step.
    pub(super) fn name(&self, value: Value) -> String {
        self.names.get(&value).cloned().unwrap_or_default()
    }

    fn names(&self, values: &[Value]) -> Vec<String> {
        values.iter().map(|value| self.name(*value)).collect()
    }

    fn set(&mut self, values: &[Value], names: Vec<String>) {
        self.names.extend(values.iter().copied().zip(names));
    }

    pub(super) fn nodes(&mut self, scope: &mut Scope, nodes: &[Node]) {
        for node in nodes {
            let names = self.node(scope, node);
            self.set(&node.outputs, names);
        }
    }

    fn iterate(&mut self, scope: &mut Scope, iterate: &Iterate, first: &[Value]) -> Vec<String> {
        match self.iteration {
            Iteration::Steps(steps) => {
                // f(0) is the first step.
                let mut state = self.names(first);
                for _ in 1..steps {
                    self.set(&iterate.state, state);
                    self.nodes(scope, &iterate.nodes);
                    state = self.names(&iterate.image);
                }
                state
            }
            Iteration::Loop => self.until_converged(scope, iterate, first),
        }
    }

    /// Iterates each sample until it meets the rule. The sample then stays as it is, so no result
    /// depends on the batch.
    fn until_converged(
        &mut self,
        scope: &mut Scope,
        iterate: &Iterate,
        first: &[Value],
    ) -> Vec<String> {
        let count = self.solves.len() + 1;
        let prefix = format!("loop{count}_");
        // For each sample: whether it moves, the steps so far, the last relative residual.
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
        let limit = loop_limit(iterate).saturating_sub(1);
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

    fn body(&mut self, iterate: &Iterate, prefix: &str) -> GraphProto {
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

        let elements: Vec<usize> = (iterate.state.iter())
            .map(|z| self.shape(*z).iter().product())
            .collect();
        let (done, relative) = judge(&mut scope, &iterate.rule, &elements, [&state, &image]);
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

    /// The batch as a vector of one whole number.
    fn batch(&self, scope: &mut Scope) -> String {
        let range = vec![int("start", 0), int("end", 1)];
        scope.node("Shape", &[self.input], range)
    }

    /// A tensor filled with one value, the batch first.
    fn filled(&self, scope: &mut Scope, shape: &[usize], value: Option<TensorProto>) -> String {
        let batch = self.batch(scope);
        let rest: Vec<i64> = shape.iter().map(|n| *n as i64).collect();
        let rest = scope.integers(&rest);
        let shape = scope.node("Concat", &[&batch, &rest], vec![int("axis", 0)]);
        let value = value.map(|value| tensor("value", value));
        scope.node("ConstantOfShape", &[&shape], value.into_iter().collect())
    }

    fn shape(&self, value: Value) -> &[usize] {
        self.graph.shape(value)
    }

    /// Writes an operation and names its results. Constants have the number of the result in their
    /// names, so that the steps of an iteration share them.
    fn node(&mut self, scope: &mut Scope, node: &Node) -> Vec<String> {
        let inputs = self.names(&node.inputs);
        let x: &str = inputs.first().map_or("", String::as_str);
        let output = node.outputs[0];
        let id = output.index();
        let own = |what: &str| format!("{what}_{id}");
        let simple = |scope: &mut Scope, kind: &str| scope.node(kind, &[x], Vec::new());
        let name = match &node.op {
            Op::Iterate(iterate) => return self.iterate(scope, iterate, &node.inputs),
            Op::Zeros => self.filled(scope, self.shape(output), None),
            Op::Convolution {
                weight,
                bias,
                stride,
                padding: [v, h],
            } => {
                let weight = scope.tensor(&own("weight"), weight, &weight.dims());
                let bias = bias.as_ref();
                let bias = bias.map(|bias| scope.tensor(&own("bias"), bias, &bias.dims()));
                let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias.as_deref()).collect();
                let attributes = vec![ints("strides", stride), ints("pads", &[*v, *h, *v, *h])];
                scope.node("Conv", &inputs, attributes)
            }
            Op::Affine { scale, shift } => {
                let scale = channels(scope, &own("scale"), scale);
                let shift = channels(scope, &own("shift"), shift);
                let scaled = scope.node("Mul", &[x, &scale], Vec::new());
                scope.node("Add", &[&scaled, &shift], Vec::new())
            }
            Op::GroupNorm {
                groups,
                scale,
                shift,
                epsilon,
            } => {
                let scale = scope.tensor(&own("scale"), scale, &scale.dims());
                let shift = scope.tensor(&own("shift"), shift, &shift.dims());
                let attributes = vec![
                    int("num_groups", *groups as i64),
                    float("epsilon", *epsilon),
                ];
                scope.node("GroupNormalization", &[x, &scale, &shift], attributes)
            }
            Op::Laplacian => self.laplacian(scope, x, output),
            Op::Relu => simple(scope, "Relu"),
            Op::LeakyRelu(slope) => scope.node("LeakyRelu", &[x], vec![float("alpha", *slope)]),
            Op::Softplus => simple(scope, "Softplus"),
            Op::Tanh => simple(scope, "Tanh"),
            Op::Clamp { low, high } => {
                let [low, high] = [scope.number(*low), scope.number(*high)];
                scope.node("Clip", &[x, &low, &high], Vec::new())
            }
            Op::Scale(factor) => {
                let factor = scope.number(*factor);
                scope.node("Mul", &[x, &factor], Vec::new())
            }
            Op::Shift(by) => {
                let by = scope.number(*by);
                scope.node("Add", &[x, &by], Vec::new())
            }
            Op::Add => scope.node("Add", &[x, &inputs[1]], Vec::new()),
            Op::Subtract => scope.node("Sub", &[x, &inputs[1]], Vec::new()),
            Op::AveragePool { window } => {
                let attributes = vec![ints("kernel_shape", window), ints("strides", window)];
                scope.node("AveragePool", &[x], attributes)
            }
            Op::MeanPool { grid } => self.mean_pool(scope, x, node.inputs[0], *grid),
            Op::Upsample { factors: [v, h] } => {
                let scales = [1.0, 1.0, *v as f32, *h as f32];
                let scales = scope.floats(&format!("scales_{v}_{h}"), &scales, &[4]);
                let attributes = vec![
                    text("mode", "nearest"),
                    text("coordinate_transformation_mode", "asymmetric"),
                    text("nearest_mode", "floor"),
                ];
                scope.node("Resize", &[x, "", &scales], attributes)
            }
            Op::Flatten => scope.node("Flatten", &[x], vec![int("axis", 1)]),
            Op::Concat => {
                let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
                scope.node("Concat", &inputs, vec![int("axis", 1)])
            }
            Op::Linear { weight, bias } => {
                let weight = scope.tensor(&own("weight"), weight, &weight.dims());
                let bias = bias.as_ref();
                let bias = bias.map(|bias| scope.tensor(&own("bias"), bias, &bias.dims()));
                let inputs: Vec<&str> = [x, &weight].into_iter().chain(bias.as_deref()).collect();
                scope.node("Gemm", &inputs, Vec::new())
            }
        };
        vec![name]
    }

    /// Differences to the four neighbours. A repeated border makes the differences across it 0.
    fn laplacian(&self, scope: &mut Scope, x: &str, output: Value) -> String {
        let channels = self.shape(output)[0];
        let pads = scope.integers(&[0, 0, 1, 1, 0, 0, 1, 1]);
        let padded = scope.node("Pad", &[x, &pads], vec![text("mode", "edge")]);
        let stencil = [0.0, -1.0, 0.0, -1.0, 4.0, -1.0, 0.0, -1.0, 0.0];
        let weight = stencil.repeat(channels);
        let name = format!("laplacian_{channels}");
        let weight = scope.floats(&name, &weight, &[channels, 1, 3, 3]);
        let groups = vec![int("group", channels as i64)];
        scope.node("Conv", &[&padded, &weight], groups)
    }

    /// Means over cells that need not be of equal size, by a matrix for each side.
    fn mean_pool(&self, scope: &mut Scope, x: &str, input: Value, grid: [usize; 2]) -> String {
        let shape = self.shape(input);
        let [height, width] = [shape[1], shape[2]];
        let rows = cells(height, grid[0]);
        let columns = cells(width, grid[1]);
        // The second matrix is multiplied from the right, so it is transposed.
        let flipped: Vec<f32> = (0..width)
            .flat_map(|pixel| (0..grid[1]).map(move |cell| cell * width + pixel))
            .map(|k| columns[k])
            .collect();
        let name = |what: &str, from: usize, to: usize| format!("{what}_{from}_{to}");
        let right = name("columns", width, grid[1]);
        let right = scope.floats(&right, &flipped, &[width, grid[1]]);
        let left = name("rows", height, grid[0]);
        let left = scope.floats(&left, &rows, &[grid[0], height]);
        let narrow = scope.node("MatMul", &[x, &right], Vec::new());
        scope.node("MatMul", &[&left, &narrow], Vec::new())
    }
}

/// One number for each channel.
fn channels(scope: &mut Scope, name: &str, t: &Tensor<1>) -> String {
    let [channels] = t.dims();
    scope.floats(name, &values(t), &[1, channels, 1, 1])
}

/// The share of each pixel in the mean of each cell, one row a cell.
fn cells(size: usize, count: usize) -> Vec<f32> {
    let row = |cell: usize| {
        let (start, end) = (cell * size / count, ((cell + 1) * size).div_ceil(count));
        let share = 1.0 / (end - start) as f32;
        (0..size).map(move |pixel| {
            if (start..end).contains(&pixel) {
                share
            } else {
                0.0
            }
        })
    };
    (0..count).flat_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::cells;

    #[test]
    fn cells_cover_the_pixels() {
        assert_eq!(cells(4, 2), [0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.5, 0.5]);
        // Of three pixels, both cells take the middle one.
        assert_eq!(cells(3, 2), [0.5, 0.5, 0.0, 0.0, 0.5, 0.5]);
    }
}
