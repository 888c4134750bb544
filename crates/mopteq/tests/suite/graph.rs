//! Networks as graphs: evaluated operation by operation, they are the networks.

use std::collections::HashMap;

use burn::tensor::activation::softplus;
use burn::tensor::module::{adaptive_avg_pool2d, conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{DType, Device, Tensor};
use mopteq::graph::{Graph, GraphError, Iterate, Node, Op, Value};
use mopteq::terms::{ActivationConfig, Pairs, Smoothness, Term};
use mopteq::{
    Branches, CodingConfig, CodingForm, Constraint, CoreConfig, DeepConfig, Family, Fusion,
    HeadConfig, LayerConfig, MOptEqsConfig, MdeqConfig, NetworkConfig, ResidualConfig, StageConfig,
};

use crate::support::{Numbers, images_of, relative, tiny, values, varied};

/// A value with four dimensions; vectors end in two of length 1.
type Values = HashMap<Value, Tensor<4>>;

/// Evaluates a graph with so many plain steps per equilibrium.
struct Evaluation<'a> {
    graph: &'a Graph,
    steps: usize,
    batch: usize,
    /// Convolutions that were computed.
    convolutions: usize,
}

impl Evaluation<'_> {
    fn nodes(&mut self, nodes: &[Node], known: &mut Values) {
        for node in nodes {
            let inputs: Branches = node.inputs.iter().map(|v| known[v].clone()).collect();
            let outputs = match &node.op {
                Op::Iterate(iterate) => self.iterate(iterate, inputs, known),
                op => vec![self.apply(op, inputs, node.outputs[0])],
            };
            for (value, output) in node.outputs.iter().zip(outputs) {
                let [_, dims @ ..] = output.dims();
                let shape = self.graph.shape(*value);
                assert_eq!(&dims[..shape.len()], shape, "{:?}", node.op);
                known.insert(*value, output);
            }
        }
    }

    fn iterate(&mut self, iterate: &Iterate, first: Branches, known: &mut Values) -> Branches {
        let mut state = first;
        for _ in 1..self.steps {
            known.extend(iterate.state.iter().copied().zip(state));
            self.nodes(&iterate.nodes, known);
            state = iterate.image.iter().map(|v| known[v].clone()).collect();
        }
        state
    }

    fn apply(&mut self, op: &Op, inputs: Branches, output: Value) -> Tensor<4> {
        let x = || inputs[0].clone();
        let along = |t: &Tensor<1>| t.clone().reshape([1, t.dims()[0], 1, 1]);
        match op {
            Op::Zeros => {
                let shape = self.graph.shape(output);
                let dims = [0, 1, 2].map(|k| shape[k]);
                Tensor::zeros([self.batch, dims[0], dims[1], dims[2]], &Device::flex())
            }
            Op::Convolution {
                weight,
                bias,
                stride,
                padding,
            } => {
                self.convolutions += 1;
                let options = ConvOptions::new(*stride, *padding, [1, 1], 1);
                conv2d(x(), weight.clone(), bias.clone(), options)
            }
            Op::Affine { scale, shift } => x() * along(scale) + along(shift),
            Op::GroupNorm {
                groups,
                scale,
                shift,
                epsilon,
            } => {
                let [batch, channels, h, w] = x().dims();
                let rows = x().reshape([batch, *groups, channels / groups * h * w]);
                let centred = rows.clone() - rows.mean_dim(2);
                let variance = (centred.clone() * centred.clone()).mean_dim(2);
                let normed = centred / (variance + *epsilon).sqrt();
                normed.reshape([batch, channels, h, w]) * along(scale) + along(shift)
            }
            Op::Laplacian => {
                // By the term of the same formula.
                let term = Smoothness { strength: 1.0 };
                let nothing = mopteq::Context::new(Vec::new(), Vec::new());
                term.gradient(&vec![x()], &nothing).remove(0)
            }
            Op::Relu => x().clamp_min(0.0),
            Op::LeakyRelu(slope) => x().clamp_min(0.0) + x().clamp_max(0.0) * *slope,
            Op::Softplus => softplus(x(), 1.0),
            Op::Tanh => x().tanh(),
            Op::Clamp { low, high } => x().clamp(*low, *high),
            Op::Scale(factor) => x() * *factor,
            Op::Shift(by) => x() + *by,
            Op::Add => x() + inputs[1].clone(),
            Op::Subtract => x() - inputs[1].clone(),
            Op::AveragePool { window: [v, h] } => {
                let [_, _, height, width] = x().dims();
                adaptive_avg_pool2d(x(), [height / v, width / h])
            }
            Op::MeanPool { grid } => adaptive_avg_pool2d(x(), *grid),
            Op::Upsample { factors } => {
                let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
                interpolate(x(), nearest.with_scale_factor(factors.map(|s| s as f32)))
            }
            Op::Flatten => x().flatten::<2>(1, 3).unsqueeze_dims(&[2, 3]),
            Op::Concat => Tensor::cat(inputs, 1),
            Op::Linear { weight, bias } => {
                let y = x().flatten::<2>(1, 3).matmul(weight.clone());
                let y = match bias {
                    Some(bias) => y + bias.clone().unsqueeze(),
                    None => y,
                };
                y.unsqueeze_dims(&[2, 3])
            }
            Op::Iterate(_) => unreachable!("handled above"),
        }
    }
}

/// Logits of a graph, and the number of its convolutions.
fn evaluate(graph: &Graph, images: Tensor<4>, steps: usize) -> (Vec<f64>, usize) {
    let mut evaluation = Evaluation {
        graph,
        steps,
        batch: images.dims()[0],
        convolutions: 0,
    };
    let mut known = Values::from([(graph.input, images)]);
    evaluation.nodes(&graph.nodes, &mut known);
    (
        values(known[&graph.logits].clone()),
        evaluation.convolutions,
    )
}

/// The graph of a MOptEq after k steps is its head on the k-th plain iterate.
fn compare(name: &str, config: MOptEqsConfig) {
    let device = Device::flex();
    let model = varied(config.init(&device).unwrap());
    let images = images_of(3, DType::F32);
    let graph = model.graph().unwrap();
    for steps in 1..=4 {
        let (found, _) = evaluate(&graph, images.clone(), steps);
        let expected = values(model.after_plain_steps(images.clone(), steps));
        let error = relative(&found, &expected);
        assert!(error < 1e-5, "{name}, {steps} steps: {error}");
    }
}

#[test]
fn every_setting_of_an_objective_is_in_the_graph() {
    let base = || tiny(Family::P);
    let s = || tiny(Family::S);
    for (name, config) in [
        ("P", base()),
        ("S", s()),
        (
            "neighbours",
            base().map_core(|c| c.with_coupling(0.2).with_pairs(Pairs::Neighbours)),
        ),
        ("cross", base().map_core(|c| c.with_cross_branch(true))),
        ("cross, S", s().map_core(|c| c.with_cross_branch(true))),
        ("smooth", base().map_core(|c| c.with_smoothness(0.3))),
        ("smooth, S", s().map_core(|c| c.with_smoothness(0.05))),
        (
            "interval",
            base().map_core(|c| {
                c.with_constraint(Constraint::Interval {
                    low: 0.1,
                    high: 0.4,
                })
            }),
        ),
        (
            "l1",
            base().map_core(|c| c.with_constraint(Constraint::L1 { weight: 0.1 })),
        ),
        (
            "sparse",
            base().map_core(|c| c.with_constraint(Constraint::Sparse { weight: 0.1 })),
        ),
        (
            "leaky",
            s().map_core(|c| c.with_activation(ActivationConfig::LeakyRelu { slope: 0.2 })),
        ),
        (
            "softplus",
            s().map_core(|c| c.with_activation(ActivationConfig::Softplus)),
        ),
        (
            "tanh",
            s().map_core(|c| c.with_activation(ActivationConfig::Tanh)),
        ),
        (
            "average",
            base().with_head(HeadConfig::new().with_grid(2).with_fusion(Fusion::Average)),
        ),
        ("grid", base().with_head(HeadConfig::new().with_grid(3))),
        ("one branch", base().single_branch()),
        (
            "dense",
            base().with_head(HeadConfig::new().with_grid(2).with_dense_classes(3)),
        ),
    ] {
        compare(name, config);
    }
}

#[test]
fn other_networks_are_in_the_graph() {
    let device = Device::flex();
    let config = ResidualConfig::like(&tiny(Family::P));
    let images = images_of(3, DType::F32);
    let model = varied(config.init(&device).unwrap());
    let (found, _) = evaluate(&model.graph(), images.clone(), 1);
    let error = relative(&found, &values(model.forward(images).logits));
    assert!(error < 1e-5, "residual: {error}");

    // One to three branches, with and without a transformed stem.
    let pictures = Numbers::new(9).tensor([2, 2, 16, 16], DType::F32);
    for channels in [vec![4], vec![4, 4], vec![4, 8, 8]] {
        let heads = vec![2; channels.len()];
        let config = MdeqConfig::new(3, 2, [16, 16], channels, heads, 5)
            .with_expansion(2)
            .with_groups(2);
        let halvings = config.channels.len() / 2;
        let model = varied(config.with_halvings(halvings).init(&device).unwrap());
        for steps in 1..=3 {
            let (found, _) = evaluate(&model.graph(), pictures.clone(), steps);
            let expected = values(model.after_plain_steps(pictures.clone(), steps));
            let error = relative(&found, &expected);
            assert!(error < 1e-4, "{halvings} halvings, {steps} steps: {error}");
        }
    }
}

#[test]
fn stacks_are_in_the_graph() {
    let device = Device::flex();
    let images = images_of(3, DType::F32);
    let codings = [CodingForm::Patches, CodingForm::Convolution]
        .map(|form| LayerConfig::Coding(CodingConfig::new().with_form(form)));
    let core = CoreConfig::new().with_channels(2).with_hidden(3);
    let free = LayerConfig::Core { branches: 2, core };
    for layer in codings.into_iter().chain([free]) {
        let name = format!("{layer:?}");
        let stage = |pool| StageConfig {
            channels: 4,
            layers: 3,
            pool,
            layer: layer.clone(),
        };
        let stages = vec![stage(false), stage(true)];
        let config = DeepConfig::new(3, 2, [8, 8], 3, stages);
        let model = varied(config.init(&device).unwrap());
        let graph = model.graph().unwrap();
        assert_eq!(graph.equilibria().count(), 6);
        for steps in 1..=3 {
            let (found, _) = evaluate(&graph, images.clone(), steps);
            let expected = values(model.after_plain_steps(images.clone(), steps));
            let error = relative(&found, &expected);
            assert!(error < 1e-4, "{name}, {steps} steps: {error}");
        }
    }
}

#[test]
fn the_first_step_is_cheaper_and_constants_are_computed_once() {
    let config = tiny(Family::P);
    let device = Device::flex();
    let model = config.init(&device).unwrap();
    let graph = model.graph().unwrap();
    let branches = config.branches;
    let images = images_of(1, DType::F32);
    // A stem and the injections; W z and W'a for each branch in each step but the first.
    for steps in [1, 2, 5] {
        let (_, convolutions) = evaluate(&graph, images.clone(), steps);
        assert_eq!(convolutions, 1 + branches + 2 * branches * (steps - 1));
    }
    let iterate = graph.equilibria().next().unwrap();
    assert_eq!(iterate.state.len(), branches);
    assert_eq!(graph.equilibria().count(), 1);
}

#[test]
fn what_has_no_operations_is_named() {
    let device = Device::flex();
    let config = tiny(Family::P).map_core(|c| c.with_diversity(0.1));
    let network = NetworkConfig::from(config).init(&device).unwrap();
    let error = network.graph().unwrap_err();
    assert_eq!(error, GraphError::Term("diversity".into()));
}
