//! What a run leaves, and that it is a function of its settings.

use std::fs;

use crate::support::*;

#[test]
fn the_same_seed_gives_the_same_result_and_everything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let text = train(folder.path(), &["--epochs", "2", "--seed", "5"]);
    for expected in [
        "epoch 2/2",
        "test accuracy",
        "forward solver",
        "backward solver",
        "run folder",
    ] {
        assert!(text.contains(expected), "no '{expected}' in:\n{text}");
    }
    train(
        folder.path(),
        &["--epochs", "2", "--seed", "5", "--workers", "1"],
    );
    train(
        folder.path(),
        &["--epochs", "2", "--seed", "6", "--out", "other"],
    );
    let runs = folder.path().join("runs");
    assert_eq!(files(runs.clone()), ["digits-1", "digits-2"]);
    assert_eq!(
        summary(&runs.join("digits-1")),
        summary(&runs.join("digits-2"))
    );
    assert_eq!(
        metrics(&runs.join("digits-1")),
        metrics(&runs.join("digits-2"))
    );
    assert_ne!(
        summary(&runs.join("digits-1")),
        summary(&folder.path().join("other"))
    );
    assert_eq!(
        files(runs.join("digits-1")),
        [
            "checkpoint",
            "config.json",
            "data-files.json",
            "metrics.csv",
            "metrics.json",
            "report.html",
            "run.lock",
            "summary.json"
        ]
    );

    // `eval` finds the accuracy that training ended with, and more steps cost no accuracy here.
    let accuracy = summary(&runs.join("digits-1"))["test_accuracy"]
        .as_f64()
        .unwrap();
    let text = succeed(folder.path(), &["eval", "--run", "runs/digits-1"]);
    assert!(
        text.contains(&format!("test accuracy    {accuracy:.2} %")),
        "{accuracy}: {text}"
    );
    let text = succeed(folder.path(), &["eval", "--run", "runs/digits-1", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["scores"]["accuracy"].as_f64(), Some(accuracy));
    let costs = found["step_costs"].as_array().unwrap();
    let steps: Vec<_> = costs
        .iter()
        .map(|cost| cost["limit"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [2, 4, 8, 16]);
    assert_eq!(costs[3]["accuracy"].as_f64(), Some(accuracy));
    assert!(costs[0]["forward"]["residual"].as_f64() > costs[3]["forward"]["residual"].as_f64());

    // The table of runs has all of them.
    let text = succeed(folder.path(), &["runs", "runs", "other", "--sort", "test"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.contains("digits-2") && text.contains("done") && text.contains("2/2"),
        "{text}"
    );
    let text = succeed(folder.path(), &["runs", "--json"]);
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["test_accuracy"].as_f64(), Some(accuracy));
}

#[test]
fn every_option_of_the_training_reaches_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(
        path.join("options.toml"),
        "epochs = 9\nlabel_smoothing = 0.1\n[model.core]\nchannels = 8\nhidden = 8\n\
         [early_solver]\nfraction = 0.5\ntolerance = 0.05\nphantom = 1\n",
    )
    .unwrap();
    let text = train(
        path,
        &[
            "--config",
            "options.toml",
            "--epochs",
            "2",
            "--schedule",
            "cosine",
            "--warmup",
            "0.5",
            "--ema",
            "0.9",
            "--clip-norm",
            "0.5",
            "--accumulate",
            "2",
            "--rand-augment",
            "1,4",
            "--set",
            "model.head.grid=1",
            "--out",
            "run",
            "--json",
        ],
    );
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 3, "{text}");
    let value = |epoch: usize, name: &str| events[epoch]["metrics"]["values"][name].as_f64();
    assert!(value(0, "train_gradient_norm").unwrap() > 0.0);
    // Epoch 1 has the phantom gradient, which needs no backward solve; epoch 2 has the exact one.
    assert_eq!(value(0, "train_backward_steps"), None);
    assert!(value(1, "train_backward_steps").unwrap() > 0.0);
    assert!(value(0, "train_forward_steps") < value(1, "train_forward_steps"));
    assert!(value(1, "train_learning_rate") < value(0, "train_learning_rate"));
    assert_eq!(events[2]["event"], "summary");

    let config = read_json(&path.join("run/config.json"));
    assert_eq!(
        (
            config["epochs"].as_u64(),
            config["label_smoothing"].as_f64()
        ),
        (Some(2), Some(0.1))
    );
    assert_eq!(config["model"]["head"]["grid"].as_u64(), Some(1));
    let rand_augment = serde_json::json!({"operations": 1, "magnitude": 4.0});
    assert_eq!(config["augmentation"]["rand_augment"], rand_augment);
    assert!(path.join("run/checkpoint/epoch-0002/ema.bpk").is_file());
    succeed(path, &["eval", "--run", "run", "--limit", "50"]);
    // The merged settings make the same run again.
    succeed(
        path,
        &[
            "train",
            "--config",
            "run/config.json",
            "--workers",
            "3",
            "--device",
            "cpu",
            "--out",
            "again",
        ],
    );
    assert_eq!(summary(&path.join("run")), summary(&path.join("again")));
}

#[test]
fn a_training_without_progress_stops_early_and_tests_its_best_epoch() {
    let folder = tempfile::tempdir().unwrap();
    // With a learning rate this small, the first validation is as good as the others.
    train(
        folder.path(),
        &[
            "--epochs",
            "30",
            "--lr",
            "1e-9",
            "--patience",
            "2",
            "--out",
            "run",
        ],
    );
    let summary = summary(&folder.path().join("run"));
    let epochs = summary["epochs"].as_u64().unwrap();
    assert!((3..30).contains(&epochs), "{summary}");
    let metrics = metrics(&folder.path().join("run"));
    assert_eq!(metrics["epochs"].as_array().unwrap().len() as u64, epochs);
}

#[test]
fn two_devices_share_a_batch() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "train",
        "--limit",
        "200",
        "--batch-size",
        "20",
        "--epochs",
        "2",
        // The two threads would draw from one generator, in any order.
        "--perturbation",
        "0",
    ];
    let shared = ["--devices", "cpu,cpu", "--out", "run"];
    succeed(folder.path(), &[&arguments[..], &shared].concat());
    let summary = summary(&folder.path().join("run"));
    let metrics = metrics(&folder.path().join("run"));
    let loss = |epoch: usize| {
        metrics["epochs"][epoch]["values"]["train_loss"]
            .as_f64()
            .unwrap()
    };
    assert!(loss(1) < loss(0), "{metrics}");
    assert!(summary["test_accuracy"].as_f64().unwrap() > 10.0);
    // However the threads happen to run, the parts are added in the order of the devices.
    let shared = ["--devices", "cpu,cpu", "--out", "again"];
    succeed(folder.path(), &[&arguments[..], &shared].concat());
    assert_eq!(
        values(&metrics),
        values(&self::metrics(&folder.path().join("again")))
    );
}

/// The metrics of all epochs, without the times.
fn values(metrics: &serde_json::Value) -> Vec<&serde_json::Value> {
    let epochs = metrics["epochs"].as_array().unwrap();
    epochs.iter().map(|epoch| &epoch["values"]).collect()
}

#[test]
fn every_network_trains_and_is_evaluated_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    bar().save(path.join("one.png")).unwrap();
    for model in ["opteq", "mdeq", "residual"] {
        train(path, &["--epochs", "1", "--model", model, "--out", model]);
        let config = read_json(&path.join(model).join("config.json"));
        assert_eq!(config["model"]["network"].as_str(), Some(model));
        let text = succeed(path, &["eval", "--run", model, "--device", "cpu"]);
        assert!(text.contains("test accuracy"), "{text}");
        let out = format!("{model}-inspected");
        let look = [
            "inspect", "one.png", "--run", model, "--device", "cpu", "--out",
        ];
        succeed(path, &[&look[..], &[&out]].concat());
        // The config of a run starts another of the same network.
        let again = format!("{model}/config.json");
        let name = format!("{model}-again");
        train(path, &["--epochs", "1", "--config", &again, "--out", &name]);
        let config = read_json(&path.join(&name).join("config.json"));
        assert_eq!(config["model"]["network"].as_str(), Some(model));
    }
    // An MDEQ has no hidden objective.
    let arguments = [&SHORT[..], &["--model", "mdeq", "--family", "s"]].concat();
    assert!(fail(path, &arguments).contains("family"));
}

#[test]
fn bf16_trains_and_stays_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let half = ["--precision", "bf16", "--epochs", "1", "--out", "half"];
    train(path, &half);
    let config = fs::read_to_string(path.join("half/config.json")).unwrap();
    assert!(config.contains("\"precision\": \"bf16\""), "{config}");
    let text = succeed(path, &["eval", "--run", "half", "--device", "cpu"]);
    assert!(text.contains("accuracy"), "{text}");
    // A network without a hidden objective has nothing to apply in it.
    let arguments = ["train", "--model", "residual", "--precision", "bf16"];
    assert!(fail(path, &arguments).contains("model.core.precision"));
}
