//! Trained models as ONNX files.
//!
//! The network comes from [`mopteq::Network::graph`]. The file also holds the normalisation, so its
//! input is pictures with values from 0 to 1. Class names, normalisation and settings are in its
//! metadata.

mod parts;
mod proto;
mod repeat;
mod translate;

use std::fs;
use std::path::Path;

use mopteq::graph::Graph;
use prost::Message;
use serde_json::json;

use crate::Error;
use crate::config::TrainConfig;
use crate::crash;
use crate::data::Normalisation;
use crate::predict::Predictor;
use crate::ship::ShipError;
use parts::{Scope, value};
use proto::{
    GraphProto, ModelProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto, data_type,
};
use repeat::loop_limit;
use translate::Translation;

pub use translate::Iteration;

/// The versions of ONNX's operators that a file can be written in, the oldest and the current one.
/// The operators used here mean the same in all of them.
pub const OPSETS: [i64; 2] = [21, 28];
/// More steps than this make a graph too large; a loop has no such limit.
pub const MOST_STEPS: usize = 1000;

/// Name of this program in the files that it writes.
const PRODUCER: &str = "mopteq";
const INPUT: &str = "pictures";

/// The version of the file format that came with a version of the operators.
fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=22 => 10,
        23 => 11,
        24 => 12,
        25..=27 => 13,
        _ => 14,
    }
}

/// Writes a model as an ONNX file, and says how the file finds an equilibrium. It replaces only
/// files of this program.
///
/// # Errors
///
/// When the name has another ending, there are too many steps, another file is there, a part of the
/// model cannot be written as ONNX, or the disk refuses.
pub fn export(
    predictor: &Predictor,
    file: &Path,
    iteration: Iteration,
    opset: i64,
) -> Result<String, Error> {
    if file.extension().is_none_or(|ending| ending != "onnx") {
        return Err(ShipError::OnnxName(file.into()).into());
    }
    if let Iteration::Steps(steps) = iteration
        && !(1..=MOST_STEPS).contains(&steps)
    {
        let most = MOST_STEPS;
        return Err(ShipError::Steps { steps, most }.into());
    }
    check_free(file)?;
    let failed = |reason: String| ShipError::Write {
        file: file.into(),
        reason,
    };
    let config = predictor.config();
    let network = predictor.model().network();
    let bytes = crash::catch(|| {
        let graph = network.graph().map_err(|error| error.to_string())?;
        let solver = solver(&graph, iteration);
        let model = model(&graph, config, iteration, opset, &solver);
        Ok((model.encode_to_vec(), solver))
    });
    let (bytes, solver) = bytes
        .unwrap_or_else(|crash| Err(crash.message))
        .map_err(failed)?;
    crate::files::write(file, &bytes)?;
    Ok(solver)
}

/// Checks that nothing is there, or only an ONNX file of this program.
fn check_free(file: &Path) -> Result<(), ShipError> {
    let taken = |reason| {
        let file = file.into();
        Err(ShipError::Taken { file, reason })
    };
    match fs::read(file) {
        Ok(bytes) => match ModelProto::decode(&bytes[..]) {
            Ok(model) if model.producer_name.as_deref() == Some(PRODUCER) => Ok(()),
            _ => taken("this program did not write it"),
        },
        Err(_) if file.symlink_metadata().is_ok() => taken("it cannot be read"),
        Err(_) => Ok(()),
    }
}

/// How an equilibrium is found, in words.
fn solver(graph: &Graph, iteration: Iteration) -> String {
    match (graph.equilibria().next(), iteration) {
        (None, _) => "an explicit network".to_owned(),
        (Some(_), Iteration::Steps(1)) => "one plain step from 0".to_owned(),
        (Some(_), Iteration::Steps(steps)) => format!("{steps} plain steps from 0"),
        (Some(iterate), Iteration::Loop) => format!(
            "plain steps from 0 to a relative residual of {}, at most {}",
            iterate.rule.relative,
            loop_limit(iterate)
        ),
    }
}

fn model(
    graph: &Graph,
    config: &TrainConfig,
    iteration: Iteration,
    opset: i64,
    solver: &str,
) -> ModelProto {
    let Normalisation { mean, std } = &config.normalisation;
    let metadata = [
        ("classes", json!(config.classes).to_string()),
        ("input", picture(config)),
        (
            "normalisation",
            json!({"mean": mean, "std": std}).to_string(),
        ),
        ("solver", solver.to_owned()),
        ("network", json!(config.model).to_string()),
        ("data", config.data.kind.name().to_owned()),
    ];
    let entry = |(key, value): (&str, String)| StringStringEntryProto {
        key: Some(key.to_owned()),
        value: Some(value),
    };
    ModelProto {
        ir_version: Some(ir_version(opset)),
        producer_name: Some(PRODUCER.to_owned()),
        producer_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        doc_string: Some(format!(
            "Image classifier ({}; {solver}). Input: {}.",
            config.model.name(),
            picture(config)
        )),
        graph: Some(write(graph, config, iteration)),
        opset_import: vec![OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(opset),
        }],
        metadata_props: metadata.into_iter().map(entry).collect(),
    }
}

/// What the input is, in words.
fn picture(config: &TrainConfig) -> String {
    let shape = config.shape;
    let colour = if shape.channels == 1 { "grey" } else { "RGB" };
    format!(
        "float32 [batch, {}, {}, {}], {colour}, values from 0 to 1 (a byte divided by 255), not \
         normalised",
        shape.channels, shape.height, shape.width
    )
}

fn write(graph: &Graph, config: &TrainConfig, iteration: Iteration) -> GraphProto {
    let mut scope = Scope::new("");
    let Normalisation { mean, std } = &config.normalisation;
    let shape = [1, mean.len(), 1, 1];
    let mean = scope.floats("mean", mean, &shape);
    let std = scope.floats("std", std, &shape);
    let centred = scope.node("Sub", &[INPUT, &mean], Vec::new());
    let normalised = scope.node("Div", &[&centred, &std], Vec::new());

    let flips = config.test_flip;
    let input = match flips {
        true => with_mirrored(&mut scope, &normalised),
        false => INPUT.to_owned(),
    };
    let images = if flips { input.clone() } else { normalised };
    let mut translation = Translation::new(graph, iteration, &input, images);
    translation.nodes(&mut scope, &graph.nodes);
    let logits = translation.name(graph.logits);
    let logits = halves(&mut scope, flips, logits, "Mean");
    let axis = parts::int("axis", 1);
    scope.named("Softmax", &[&logits], &["probabilities"], vec![axis]);
    scope.named("Identity", &[&logits], &["logits"], Vec::new());
    let floats = |name: &str, shape: &[usize], explanation: &str| -> ValueInfoProto {
        value(name, data_type::FLOAT, Some(shape), explanation)
    };
    let classes = &[config.classes.len()];
    let mut outputs = vec![
        floats(
            "probabilities",
            classes,
            "of each class, in the order of the metadata",
        ),
        floats("logits", classes, "class scores"),
    ];
    if let Some(dense) = graph.dense {
        let name = translation.name(dense);
        let name = halves(&mut scope, flips, name, "");
        scope.named("Identity", &[&name], &["dense"], Vec::new());
        outputs.push(floats(
            "dense",
            graph.shape(dense),
            "class scores of each pixel",
        ));
    }
    for (k, solve) in translation.solves.iter().enumerate() {
        // A network of several equilibria numbers them.
        let suffix = if k == 0 {
            String::new()
        } else {
            format!("_{}", k + 1)
        };
        let (steps, residual) = (format!("steps{suffix}"), format!("residual{suffix}"));
        let [most, worst] = [&solve.steps, &solve.residual]
            .map(|name| halves(&mut scope, flips, name.clone(), "Max"));
        repeat::per_sample(&mut scope, &most, &steps);
        repeat::per_sample(&mut scope, &worst, &residual);
        let explanation = "plain steps that the equilibrium took";
        outputs.push(value(&steps, data_type::INT64, Some(&[]), explanation));
        let explanation = "relative residual before the last step";
        outputs.push(floats(&residual, &[], explanation));
    }
    let [channels, height, width] = config.model.input_shape();
    let input = floats(INPUT, &[channels, height, width], &picture(config));
    scope.finish(PRODUCER, vec![input], outputs)
}

/// The batch, followed by its mirror images.
fn with_mirrored(scope: &mut Scope, images: &str) -> String {
    let [start, end, axis, step] = [-1, i64::MIN, 3, -1].map(|n| scope.integers(&[n]));
    let mirrored = scope.node("Slice", &[images, &start, &end, &axis, &step], Vec::new());
    let axis = vec![parts::int("axis", 0)];
    scope.node("Concat", &[images, &mirrored], axis)
}

/// The results for the pictures and for their mirror images, combined by the operator `kind`. If
/// `kind` is empty, the results for the pictures alone.
fn halves(scope: &mut Scope, flips: bool, name: String, kind: &str) -> String {
    if !flips {
        return name;
    }
    let names = [scope.fresh(), scope.fresh()];
    let halves = names.each_ref().map(String::as_str);
    let attributes = vec![parts::int("axis", 0), parts::int("num_outputs", 2)];
    scope.named("Split", &[&name], &halves, attributes);
    match kind {
        "" => names[0].clone(),
        _ => scope.node(kind, &halves, Vec::new()),
    }
}
