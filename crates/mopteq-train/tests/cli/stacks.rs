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

#[test]
fn mirror_images_and_whitening_are_settings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let short = ["--epochs", "1", "--set", "test_flip=true"];
    train(path, &[&short[..], &["--out", "run"]].concat());
    let slope = |mirrored: bool| {
        image::GrayImage::from_fn(28, 28, |x, y| {
            let x = if mirrored { 27 - x } else { x };
            image::Luma([if x > y { 8 * x as u8 } else { 0 }])
        })
    };
    slope(false).save(path.join("one.png")).unwrap();
    slope(true).save(path.join("other.png")).unwrap();
    let predict = |more: &[&str]| {
        let common = ["predict", "--run", "run", "--device", "cpu", "--json"];
        let said = succeed(
            path,
            &[&common[..], more, &["one.png", "other.png"]].concat(),
        );
        let best = said.lines().map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["classes"][0]["probability"].as_f64().unwrap()
        });
        let best: Vec<f64> = best.collect();
        assert_eq!(best.len(), 2);
        (best[0] - best[1]).abs()
    };
    assert!(predict(&[]) < 1e-6);
    assert!(predict(&["--flip", "false"]) > 1e-4);
    // The test at the end of a training is that of `eval`.
    let loss = |run: &str| summary(&path.join(run))["test_loss"].as_f64().unwrap();
    let eval = |more: &[&str]| {
        let common = ["eval", "--run", "run", "--device", "cpu", "--json"];
        let said = succeed(path, &[&common[..], more].concat());
        let value: serde_json::Value = serde_json::from_str(&said).unwrap();
        value["scores"]["loss"].as_f64().unwrap()
    };
    assert!((eval(&[]) - loss("run")).abs() < 1e-9);
    assert!((eval(&["--flip", "false"]) - loss("run")).abs() > 1e-6);

    // The first kernel is made of pairs of opposite signs.
    let plain = ["--set", "whitening=false", "--out", "plain"];
    train(path, &[&short[..], &plain].concat());
    assert!((loss("plain") - loss("run")).abs() > 1e-6);
    let error = fail(
        path,
        &["train", "--model", "mdeq", "--set", "whitening=true"],
    );
    assert!(error.contains("whitening"), "{error}");
}

#[test]
fn every_layer_has_its_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    let table = fs::read_to_string(path.join("run/metrics.csv")).unwrap();
    let head = table.lines().next().unwrap();
    for (stage, layers) in [(1, 1), (2, 2), (3, 2)] {
        for layer in 1..=layers {
            for what in ["forward_steps", "forward_converged", "backward_residual"] {
                let name = format!("train_stage_{stage}_layer_{layer}_{what}");
                assert!(head.split(',').any(|column| column == name), "{name}");
            }
        }
    }
    let said = succeed(path, &["eval", "--run", "run", "--device", "cpu", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&said).unwrap();
    let layers = value["scores"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 5);
    assert_eq!(layers[2]["name"], "stage 2, layer 2");
    // The slowest layer of each picture is the network's.
    let steps = |solve: &serde_json::Value| solve["steps"].as_f64().unwrap();
    let slowest = layers.iter().map(|layer| steps(&layer["forward"]));
    assert!(slowest.fold(0.0, f64::max) <= steps(&value["scores"]["forward"]) + 1e-9);
    let page = fs::read_to_string(path.join("run/report.html")).unwrap();
    assert!(page.contains("<td>stage 3, layer 2</td>"));
}
