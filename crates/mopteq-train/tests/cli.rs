//! The program as a user meets it: results, errors, kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use image::{GrayImage, Luma};
use serde_json::Value;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mopteq"));
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn output(folder: &Path, arguments: &[&str]) -> Output {
    program(folder).args(arguments).output().unwrap()
}

/// Runs the program, which must succeed, and returns its standard output.
fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = output(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail with one line on standard error, and returns the line.
fn fail(folder: &Path, arguments: &[&str]) -> String {
    let output = output(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(!error.contains("panic"), "{arguments:?}: {error}");
    let errors: Vec<&str> = error
        .lines()
        .filter(|line| !line.starts_with("warning: "))
        .collect();
    assert!(
        matches!(errors[..], [line] if line.starts_with("error: ")),
        "{arguments:?}: {error}"
    );
    errors[0].to_owned()
}

fn train(folder: &Path, arguments: &[&str]) -> String {
    let fixed = [
        "train",
        "--device",
        "cpu",
        "--limit",
        "200",
        "--batch-size",
        "20",
    ];
    succeed(folder, &[&fixed[..], arguments].concat())
}

/// The summary without what depends on the clock.
fn summary(run: &Path) -> Value {
    let text = fs::read(run.join("summary.json")).unwrap();
    let mut summary: Value = serde_json::from_slice(&text).unwrap();
    summary
        .as_object_mut()
        .unwrap()
        .remove("training_seconds")
        .unwrap();
    summary
}

/// The metrics of every epoch without what depends on the clock.
fn metrics(run: &Path) -> Value {
    let text = fs::read(run.join("metrics.json")).unwrap();
    let mut metrics: Value = serde_json::from_slice(&text).unwrap();
    for epoch in metrics["epochs"].as_array_mut().unwrap() {
        epoch.as_object_mut().unwrap().remove("seconds").unwrap();
    }
    metrics
}

fn files(folder: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A white bar on black, roughly a one.
fn bar() -> GrayImage {
    GrayImage::from_fn(56, 56, |x, y| {
        Luma([if (26..31).contains(&x) && (10..46).contains(&y) {
            255
        } else {
            0
        }])
    })
}

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
    train(folder.path(), &["--epochs", "2", "--seed", "5"]);
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
            "curves.svg",
            "metrics.csv",
            "metrics.json",
            "summary.json"
        ]
    );

    // `eval` finds the accuracy that training ended with.
    let accuracy = summary(&runs.join("digits-1"))["test_accuracy"]
        .as_f64()
        .unwrap();
    let text = succeed(folder.path(), &["eval", "--run", "runs/digits-1"]);
    assert!(
        text.contains(&format!("test accuracy    {accuracy:.2} %")),
        "{accuracy}: {text}"
    );
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--epochs", "8", "--seed", "3", "--plain"];
    train(folder.path(), &[&options[..], &["--out", "whole"]].concat());

    let killed = folder.path().join("killed");
    let mut child = program(folder.path())
        .args([
            "train",
            "--device",
            "cpu",
            "--limit",
            "200",
            "--batch-size",
            "20",
        ])
        .args(options)
        .args(["--out", "killed"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !killed.join("checkpoint/scheduler-2.bpk").exists() {
        assert!(start.elapsed() < PATIENCE, "no checkpoint appeared");
        assert!(
            child.try_wait().unwrap().is_none(),
            "ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    // On Unix this is SIGKILL: no destructor runs.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        !killed.join("summary.json").exists(),
        "the kill came too late to test anything"
    );
    // What a kill in the middle of a write leaves.
    fs::write(killed.join("checkpoint/model-99.bpk.1-0.tmp"), "half").unwrap();

    succeed(
        folder.path(),
        &["train", "--resume", "killed", "--device", "cpu", "--plain"],
    );
    let whole = folder.path().join("whole");
    assert_eq!(summary(&whole), summary(&killed));
    assert_eq!(metrics(&whole), metrics(&killed));
    assert_eq!(
        files(whole.join("checkpoint")),
        files(killed.join("checkpoint"))
    );

    // A finished run has nothing left to do.
    succeed(
        folder.path(),
        &["train", "--resume", "killed", "--device", "cpu"],
    );
    assert_eq!(summary(&whole), summary(&killed));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    train(folder.path(), &["--epochs", "3", "--out", "run"]);
    let run = folder.path().join("run");
    let before = summary(&run);
    let model = run.join("checkpoint/model-3.bpk");
    let half = fs::read(&model).unwrap();
    fs::write(&model, &half[..half.len() / 2]).unwrap();

    let error = fail(folder.path(), &["eval", "--run", "run"]);
    assert!(error.contains("model-3.bpk"), "{error}");
    let output = output(
        folder.path(),
        &["train", "--resume", "run", "--device", "cpu"],
    );
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        warning.contains("model-3.bpk") && output.status.success(),
        "{warning}"
    );
    assert_eq!(summary(&run), before);

    for epoch in [2, 3] {
        fs::write(
            run.join(format!("checkpoint/optim-{epoch}.bpk")),
            "no record",
        )
        .unwrap();
    }
    // The best checkpoint may be an older one that is still whole.
    let _ = fs::remove_file(run.join("checkpoint/optim-1.bpk"));
    let error = fail(
        folder.path(),
        &["train", "--resume", "run", "--device", "cpu"],
    );
    assert!(error.contains("optim-3.bpk"), "{error}");
}

#[test]
fn pictures_are_classified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "4", "--out", "run"]);
    bar().save(path.join("one.png")).unwrap();
    let text = succeed(path, &["predict", "--run", "run", "one.png"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert_eq!(lines[0], "one.png");
    let probability = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<f64>()
            .unwrap()
    };
    assert!(
        lines[1..]
            .windows(2)
            .all(|pair| probability(pair[0]) >= probability(pair[1]))
    );

    fs::create_dir(path.join("pictures")).unwrap();
    bar().save(path.join("pictures/b.png")).unwrap();
    bar().save(path.join("pictures/a.jpg")).unwrap();
    fs::write(path.join("pictures/notes.txt"), "no picture").unwrap();
    let output = output(path, &["predict", "--run", "run", "--invert", "pictures"]);
    let text = String::from_utf8_lossy(&output.stdout);
    let named: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(output.status.success());
    assert!(named[0].ends_with("a.jpg") && named[1].ends_with("b.png") && named.len() == 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("notes.txt"));
}

#[test]
fn every_mistake_gets_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    bar().save(path.join("one.png")).unwrap();
    fs::write(path.join("text.png"), "this is text").unwrap();
    fs::create_dir(path.join("empty")).unwrap();

    let predict = |run: &str, picture: &str| fail(path, &["predict", "--run", run, picture]);
    assert!(predict("run", "missing.png").contains("missing.png"));
    assert!(predict("run", "text.png").contains("text.png: not a picture"));
    assert!(predict("run", "empty").contains("empty: no file"));
    assert!(predict("missing", "one.png").contains("missing: no such run folder"));
    assert!(predict("empty", "one.png").contains("empty is not a run folder"));
    assert!(fail(path, &["eval", "--run", "run", "--checkpoint", "7"]).contains("epoch 7"));

    let copy = |name: &str, file: &str, content: Option<&str>| {
        let to = path.join(name);
        fs::create_dir_all(to.join("checkpoint")).unwrap();
        for part in [
            "config.json",
            "checkpoint/model-1.bpk",
            "checkpoint/optim-1.bpk",
            "checkpoint/scheduler-1.bpk",
            "metrics.json",
        ] {
            fs::copy(path.join("run").join(part), to.join(part)).unwrap();
        }
        match content {
            Some(content) => fs::write(to.join(file), content).unwrap(),
            None => fs::remove_file(to.join(file)).unwrap(),
        }
    };
    copy("bare", "checkpoint/model-1.bpk", None);
    assert!(predict("bare", "one.png").contains("bare has no complete checkpoint"));
    copy("damaged", "checkpoint/model-1.bpk", Some("no record"));
    assert!(predict("damaged", "one.png").contains("model-1.bpk: damaged"));
    assert!(fail(path, &["train", "--resume", "damaged"]).contains("model-1.bpk: damaged"));
    copy("unread", "config.json", Some("{ \"epochs\": "));
    assert!(predict("unread", "one.png").contains("config.json: not valid"));
    let config = fs::read_to_string(path.join("run/config.json")).unwrap();
    copy(
        "wrong",
        "config.json",
        Some(&config.replace("\"epochs\": 1", "\"epochs\": 0")),
    );
    assert!(fail(path, &["train", "--resume", "wrong"]).contains("config.json: epochs is 0"));

    assert!(fail(path, &["train", "--out", "run"]).contains("run exists"));
    assert!(fail(path, &["train", "--out", "one.png"]).contains("one.png"));
    assert!(fail(path, &["train", "--resume", "missing"]).contains("missing: no such run folder"));
    for (option, value, named) in [
        ("--epochs", "0", "epochs"),
        ("--batch-size", "0", "batch_size"),
        ("--lr", "-1e-3", "learning_rate"),
        ("--limit", "0", "limit"),
        ("--validation-fraction", "1", "validation_fraction"),
    ] {
        let error = fail(path, &["train", &format!("{option}={value}")]);
        assert!(error.contains(named), "{error}");
    }
    let nothing = fail(
        path,
        &["train", "--limit", "1", "--validation-fraction", "0.9"],
    );
    assert!(nothing.contains("no picture is left"), "{nothing}");
    assert!(
        !path.join("runs").exists(),
        "a request that cannot work left a folder"
    );
    if !cfg!(feature = "rocm") {
        assert!(fail(path, &["--device", "rocm"]).contains("--features rocm"));
    }

    // Options that are not even options are the argument parser's, with its exit code.
    for arguments in [
        &["train", "--device", "gpu"][..],
        &["train", "--data", "letters"],
        &["train", "--epochs", "many"],
        &["train", "--resume", "run", "--epochs", "3"],
        &["predict", "--run", "run"],
        &["dance"],
    ] {
        let output = output(path, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.starts_with("error: ") && !error.contains("panic"),
            "{error}"
        );
    }
}
