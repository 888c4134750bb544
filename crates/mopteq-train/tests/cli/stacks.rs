//! The preset of the digits, a stack of equilibria, from training to shipping.

use std::fs;

use serde_json::json;

use crate::support::{bar, fail, output, read_json, succeed, summary, train};

#[test]
fn a_stack_is_trained_resumed_inspected_and_shipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "2", "--out", "run"]);
    let config = read_json(&path.join("run/config.json"));
    assert_eq!(config["model"]["network"], "deep");
    assert_eq!(config["nesterov"], true);
    let first = summary(&path.join("run"));

    // The same in two parts.
    train(path, &["--epochs", "2", "--out", "again"]);
    fs::remove_dir_all(path.join("again/checkpoint/epoch-0002")).unwrap();
    fs::remove_file(path.join("again/summary.json")).unwrap();
    succeed(path, &["train", "--resume", "again", "--device", "cpu"]);
    let second = summary(&path.join("again"));
    assert_eq!(first["test_loss"], second["test_loss"]);

    bar().save(path.join("one.png")).unwrap();
    succeed(
        path,
        &["inspect", "--run", "run", "--device", "cpu", "one.png"],
    );
    let predict = |run: &str| {
        let arguments = [
            "predict", "--run", run, "--device", "cpu", "--json", "one.png",
        ];
        succeed(path, &arguments)
    };
    let common = ["export", "--device", "cpu", "--run", "run"];
    succeed(
        path,
        &[&common[..], &["out/m.safetensors", "--onnx", "out/m.onnx"]].concat(),
    );
    succeed(path, &["import", "out/m.safetensors", "--out", "imported"]);
    assert_eq!(predict("run"), predict("imported"));
    let graph = fs::read(path.join("out/m.onnx")).unwrap();
    assert!(graph.windows(4).any(|w| w == b"Loop"));
}

#[test]
fn settings_of_a_stack_are_those_of_its_stages() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let small = ["--epochs", "1", "--set", "model.stages.all.channels=8"];
    train(
        path,
        &[
            &small[..],
            &["--set", "model.stages.1.layers=1", "--out", "run"],
        ]
        .concat(),
    );
    let stages = read_json(&path.join("run/config.json"))["model"]["stages"].clone();
    let layers: Vec<_> = stages
        .as_array()
        .unwrap()
        .iter()
        .map(|s| &s["layers"])
        .collect();
    assert_eq!(layers, [&json!(1), &json!(1), &json!(2)]);
    let wrong = |more: &[&str]| fail(path, &[&["train"], more].concat());
    let error = wrong(&["--set", "model.stages.7.layers=1"]);
    assert!(
        error.contains("stages.7") && error.contains("below 3"),
        "{error}"
    );
    let error = wrong(&["--set", "model.stages.0.layer.mu=0"]);
    assert!(
        error.contains("mu") && error.contains("positive"),
        "{error}"
    );
    let error = wrong(&["--preset", "deep", "--model", "residual"]);
    assert!(error.contains("--preset"), "{error}");
    // An option of the paper's model chooses it.
    let paper = [
        "train", "--family", "s", "--epochs", "1", "--limit", "60", "--device", "cpu",
    ];
    let made = output(path, &[&paper[..], &["--out", "paper"]].concat());
    assert!(made.status.success());
    let config = read_json(&path.join("paper/config.json"));
    assert_eq!(config["model"]["network"], "mopteq");
}
