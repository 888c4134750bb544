//! Builds a graph and simplifies it along the way.

use std::collections::{HashMap, HashSet};

use burn::module::{Param, RunningState};
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, GroupNorm, Linear, PaddingConfig2d};
use burn::tensor::Tensor;
use burn_deq::Termination;

use super::{Combination, Graph, Iterate, Node, Op, Value};

/// Collects the operations of a [`Graph`].
///
/// An operation goes to the outermost list in which all its inputs are available, so an iteration
/// repeats only what depends on its state. Operations on zeros are dropped, so f(0) costs less than
/// f(z).
#[derive(Debug, Default)]
pub struct Builder {
    values: Vec<Known>,
    /// The open lists: the graph, then the iteration that is being written.
    lists: Vec<Vec<Node>>,
    /// Scaled values that already exist, by value and bits of the factor.
    scaled: HashMap<(Value, u64), Value>,
}

/// What the builder knows about a value.
#[derive(Clone, Debug)]
struct Known {
    shape: Vec<usize>,
    /// Index of the list in which it is computed.
    list: usize,
    zero: bool,
}

impl Builder {
    /// A builder for a graph on pictures `[channels, height, width]`, and the value of these.
    pub(crate) fn new(input: [usize; 3]) -> (Self, Value) {
        let mut builder = Self {
            lists: vec![Vec::new()],
            ..Self::default()
        };
        let input = builder.value(input.to_vec(), 0, false);
        (builder, input)
    }

    /// The finished graph, without unused operations.
    pub(crate) fn finish(mut self, logits: Value, dense: Option<Value>) -> Graph {
        let nodes = self.lists.swap_remove(0);
        let mut needed: HashSet<Value> = dense.into_iter().chain([logits]).collect();
        let nodes = live(nodes, &mut needed);
        Graph {
            input: Value(0),
            nodes,
            logits,
            dense,
            shapes: self.values.into_iter().map(|known| known.shape).collect(),
        }
    }

    fn value(&mut self, shape: Vec<usize>, list: usize, zero: bool) -> Value {
        self.values.push(Known { shape, list, zero });
        Value(self.values.len() - 1)
    }

    /// The shape of a value without the batch.
    pub fn shape(&self, value: Value) -> &[usize] {
        &self.values[value.0].shape
    }

    /// Channels, height and width of a value that has them.
    pub(crate) fn picture(&self, value: Value) -> [usize; 3] {
        let shape = self.shape(value);
        [0, 1, 2].map(|k| shape.get(k).copied().unwrap_or(1))
    }

    fn is_zero(&self, value: Value) -> bool {
        self.values[value.0].zero
    }

    /// Adds an operation. `shape` is that of its result without the batch.
    pub fn push(&mut self, op: Op, inputs: &[Value], shape: Vec<usize>) -> Value {
        let lists = inputs.iter().map(|input| self.values[input.0].list);
        let list = lists.max().unwrap_or(0);
        let output = self.value(shape, list, matches!(op, Op::Zeros));
        self.lists[list].push(Node {
            op,
            inputs: inputs.to_vec(),
            outputs: vec![output],
        });
        output
    }

    /// An operation that keeps the shape; zeros stay zeros if `keeps_zero`.
    fn elementwise(&mut self, op: Op, x: Value, keeps_zero: bool) -> Value {
        if keeps_zero && self.is_zero(x) {
            return x;
        }
        let shape = self.shape(x).to_vec();
        self.push(op, &[x], shape)
    }

    /// Zeros of this shape.
    pub fn zeros(&mut self, shape: Vec<usize>) -> Value {
        self.push(Op::Zeros, &[], shape)
    }

    /// A convolution of stride 1 that keeps the resolution.
    pub fn convolve(&mut self, x: Value, weight: Tensor<4>) -> Value {
        let half = weight.dims()[2] / 2;
        self.convolution(x, weight, None, [1, 1], [half, half])
    }

    pub(crate) fn convolution(
        &mut self,
        x: Value,
        weight: Tensor<4>,
        bias: Option<Tensor<1>>,
        stride: [usize; 2],
        padding: [usize; 2],
    ) -> Value {
        let [out, _, k, l] = weight.dims();
        let [_, height, width] = self.picture(x);
        let side = |n: usize, p: usize, k: usize, s: usize| (n + 2 * p - k) / s + 1;
        let shape = vec![
            out,
            side(height, padding[0], k, stride[0]),
            side(width, padding[1], l, stride[1]),
        ];
        if self.is_zero(x) && bias.is_none() {
            return self.zeros(shape);
        }
        let op = Op::Convolution {
            weight: weight.without_autodiff(),
            bias: bias.map(Tensor::without_autodiff),
            stride,
            padding,
        };
        self.push(op, &[x], shape)
    }

    /// The convolution of a module. Its padding is explicit and the same on opposite sides, as
    /// everywhere in this crate.
    pub(crate) fn module_convolution(&mut self, x: Value, conv: &Conv2d) -> Value {
        let padding = match conv.padding {
            PaddingConfig2d::Explicit(top, left, ..) => [top, left],
            _ => [0, 0],
        };
        let bias = conv.bias.as_ref().map(|bias| bias.val());
        self.convolution(x, conv.weight.val(), bias, conv.stride, padding)
    }

    /// Batch norm by its running statistics, folded into a convolution right before it.
    pub(crate) fn batch_norm(&mut self, x: Value, norm: &BatchNorm) -> Value {
        let [gamma, beta] = [&norm.gamma, &norm.beta].map(|p| p.val().without_autodiff());
        let [mean, variance] = [&norm.running_mean, &norm.running_var].map(|s| running(s, &gamma));
        self.normalise(x, [gamma, beta], [mean, variance], norm.epsilon)
    }

    /// gamma (x - mean) / sqrt(variance + epsilon) + beta.
    pub(crate) fn normalise(
        &mut self,
        x: Value,
        [gamma, beta]: [Tensor<1>; 2],
        [mean, variance]: [Tensor<1>; 2],
        epsilon: f64,
    ) -> Value {
        let scale = gamma / (variance + epsilon).sqrt();
        let shift = beta - mean * scale.clone();
        let shape = self.shape(x).to_vec();
        match self.producer(x) {
            Some(Node {
                op:
                    Op::Convolution {
                        weight,
                        bias,
                        stride,
                        padding,
                    },
                inputs,
                ..
            }) => {
                let [out, ..] = weight.dims();
                let bias = match bias {
                    Some(bias) => bias * scale.clone() + shift,
                    None => shift,
                };
                let op = Op::Convolution {
                    weight: weight * scale.reshape([out, 1, 1, 1]),
                    bias: Some(bias),
                    stride,
                    padding,
                };
                self.push(op, &inputs, shape)
            }
            _ => self.push(Op::Affine { scale, shift }, &[x], shape),
        }
    }

    pub(crate) fn group_norm(&mut self, x: Value, norm: &GroupNorm) -> Value {
        let plain = |p: &Option<Param<Tensor<1>>>| {
            let value = p.as_ref().map(|p| p.val().without_autodiff());
            value.expect("the group norms of this crate have factors")
        };
        let op = Op::GroupNorm {
            groups: norm.num_groups,
            scale: plain(&norm.gamma),
            shift: plain(&norm.beta),
            epsilon: norm.epsilon,
        };
        self.elementwise(op, x, false)
    }

    /// max(x, 0).
    pub fn relu(&mut self, x: Value) -> Value {
        self.elementwise(Op::Relu, x, true)
    }

    /// x limited to an interval.
    pub fn clamp(&mut self, x: Value, low: f64, high: f64) -> Value {
        let keeps_zero = low <= 0.0 && high >= 0.0;
        self.elementwise(Op::Clamp { low, high }, x, keeps_zero)
    }

    /// The Laplacian of the pixel grid with free borders.
    pub fn laplacian(&mut self, x: Value) -> Value {
        self.elementwise(Op::Laplacian, x, true)
    }

    /// Another elementwise function.
    pub fn function(&mut self, op: Op, x: Value) -> Value {
        let keeps_zero = matches!(op, Op::Relu | Op::LeakyRelu(_) | Op::Tanh | Op::Scale(_));
        self.elementwise(op, x, keeps_zero)
    }

    /// The means over the cells of a coarser grid.
    pub(crate) fn mean_pool(&mut self, x: Value, grid: [usize; 2]) -> Value {
        let [channels, height, width] = self.picture(x);
        let shape = vec![channels, grid[0], grid[1]];
        if [height, width] == grid {
            return x;
        }
        if self.is_zero(x) {
            return self.zeros(shape);
        }
        let even = height.is_multiple_of(grid[0]) && width.is_multiple_of(grid[1]);
        let op = match even {
            true => Op::AveragePool {
                window: [height / grid[0], width / grid[1]],
            },
            false => Op::MeanPool { grid },
        };
        self.push(op, &[x], shape)
    }

    pub(crate) fn upsample(&mut self, x: Value, factors: [usize; 2]) -> Value {
        let [channels, height, width] = self.picture(x);
        let shape = vec![channels, height * factors[0], width * factors[1]];
        match (factors, self.is_zero(x)) {
            ([1, 1], _) => x,
            (_, true) => self.zeros(shape),
            (_, false) => self.push(Op::Upsample { factors }, &[x], shape),
        }
    }

    /// [`resample`](crate::resample()) as a factor and a value.
    pub fn resample(&mut self, x: Value, [height, width]: [usize; 2]) -> (f64, Value) {
        let [_, h, w] = self.picture(x);
        let coarse = [h.min(height), w.min(width)];
        let pools = (h / coarse[0] * (w / coarse[1])) as f64;
        let factors = [height / coarse[0], width / coarse[1]];
        let grows = (factors[0] * factors[1]) as f64;
        let pooled = self.mean_pool(x, coarse);
        let grown = self.upsample(pooled, factors);
        ((pools / grows).sqrt(), grown)
    }

    /// The weighted sum of one or more values of the same shape. The factor of a convolution is
    /// folded into its kernel.
    pub fn combine(&mut self, sum: &[(f64, Value)]) -> Value {
        let mut merged: Combination = Vec::new();
        for (factor, value) in sum.iter().filter(|(_, value)| !self.is_zero(*value)) {
            match merged.iter_mut().find(|(_, known)| known == value) {
                Some((total, _)) => *total += factor,
                None => merged.push((*factor, *value)),
            }
        }
        merged.retain(|(factor, _)| *factor != 0.0);
        // Runtimes fuse a convolution with the addition right after it, so the convolutions of this
        // list come last.
        let open = self.lists.len() - 1;
        let (mut parts, mut last): (Combination, Combination) = (Vec::new(), Vec::new());
        for (factor, value) in merged {
            match self.scaled_convolution(value, factor) {
                Some(value) if self.values[value.0].list == open => last.push((1.0, value)),
                Some(value) => parts.push((1.0, value)),
                None => parts.push((factor, value)),
            }
        }
        // The sum starts with a positive part if there is one.
        if let Some(first) = parts.iter().position(|(factor, _)| *factor > 0.0) {
            parts.swap(0, first);
        }
        parts.extend(last);
        let shape = sum.first().map(|(_, value)| self.shape(*value).to_vec());
        let shape = shape.unwrap_or_default();
        let mut total: Option<Value> = None;
        for (factor, value) in parts {
            total = Some(match total {
                None => self.scale(value, factor),
                Some(total) => {
                    let op = if factor > 0.0 { Op::Add } else { Op::Subtract };
                    let value = self.scale(value, factor.abs());
                    self.push(op, &[total, value], shape.clone())
                }
            });
        }
        total.unwrap_or_else(|| self.zeros(shape))
    }

    fn scale(&mut self, x: Value, factor: f64) -> Value {
        if factor == 1.0 {
            return x;
        }
        let key = (x, factor.to_bits());
        if let Some(known) = self.scaled.get(&key) {
            return *known;
        }
        let scaled = self.function(Op::Scale(factor), x);
        self.scaled.insert(key, scaled);
        scaled
    }

    /// x times a factor, if x is a convolution.
    fn scaled_convolution(&mut self, x: Value, factor: f64) -> Option<Value> {
        let key = (x, factor.to_bits());
        if let Some(known) = self.scaled.get(&key) {
            return Some(*known);
        }
        let node = self.producer(x)?;
        let Op::Convolution {
            weight,
            bias,
            stride,
            padding,
        } = node.op
        else {
            return None;
        };
        if factor == 1.0 {
            return Some(x);
        }
        let op = Op::Convolution {
            weight: weight * factor,
            bias: bias.map(|bias| bias * factor),
            stride,
            padding,
        };
        let shape = self.shape(x).to_vec();
        let scaled = self.push(op, &node.inputs, shape);
        self.scaled.insert(key, scaled);
        Some(scaled)
    }

    fn producer(&self, value: Value) -> Option<Node> {
        let list = &self.lists[self.values[value.0].list];
        let node = list.iter().rev().find(|node| node.outputs == [value]);
        node.cloned()
    }

    /// Flattens and concatenates the pools, then computes x W + b.
    pub(crate) fn classify(&mut self, pools: Vec<Value>, linear: &Linear) -> Value {
        let flat: Vec<Value> = pools
            .into_iter()
            .map(|pool| {
                let length = self.shape(pool).iter().product();
                self.push(Op::Flatten, &[pool], vec![length])
            })
            .collect();
        let length = flat.iter().map(|value| self.shape(*value)[0]).sum();
        let joined = match flat[..] {
            [one] => one,
            _ => self.push(Op::Concat, &flat, vec![length]),
        };
        let weight = linear.weight.val().without_autodiff();
        let classes = weight.dims()[1];
        let bias = linear.bias.as_ref();
        let op = Op::Linear {
            weight,
            bias: bias.map(|bias| bias.val().without_autodiff()),
        };
        self.push(op, &[joined], vec![classes])
    }

    /// The equilibrium of a map z -> f(z), iterated from 0. `shapes` are those of the branches.
    pub(crate) fn equilibrium<E>(
        &mut self,
        shapes: &[Vec<usize>],
        rule: &Termination,
        map: impl Fn(&mut Self, &[Value]) -> Result<Vec<Value>, E>,
    ) -> Result<Vec<Value>, E> {
        let zeros: Vec<Value> = shapes.iter().map(|s| self.zeros(s.clone())).collect();
        let first = map(self, &zeros)?;
        let list = self.lists.len();
        self.lists.push(Vec::new());
        let state: Vec<Value> = shapes
            .iter()
            .map(|shape| self.value(shape.clone(), list, false))
            .collect();
        let image = map(self, &state)?;
        let mut nodes = self.lists.pop().unwrap_or_default();
        nodes = live(nodes, &mut image.iter().copied().collect());
        let outputs: Vec<Value> = shapes
            .iter()
            .map(|shape| self.value(shape.clone(), list - 1, false))
            .collect();
        let op = Op::Iterate(Iterate {
            state,
            nodes,
            image,
            rule: rule.clone(),
        });
        self.lists[list - 1].push(Node {
            op,
            inputs: first,
            outputs: outputs.clone(),
        });
        Ok(outputs)
    }
}

/// Keeps the nodes with a needed output, and adds their inputs to `needed`.
fn live(nodes: Vec<Node>, needed: &mut HashSet<Value>) -> Vec<Node> {
    let mut kept: Vec<Node> = nodes
        .into_iter()
        .rev()
        .filter(|node| {
            let live = node.outputs.iter().any(|output| needed.contains(output));
            if live {
                needed.extend(&node.inputs);
                if let Op::Iterate(iterate) = &node.op {
                    needed.extend(&iterate.image);
                    needed.extend(iterate.nodes.iter().flat_map(|node| &node.inputs));
                }
            }
            live
        })
        .collect();
    kept.reverse();
    kept
}

fn running(state: &RunningState<Tensor<1>>, like: &Tensor<1>) -> Tensor<1> {
    let value = state.value_sync().without_autodiff();
    value.to_device(&like.device())
}
