//! Starting from weights, divergence, and telling what to do next.

use std::fs;

use serde_json::json;

use crate::support::*;

#[test]
fn an_imported_model_is_fine_tuned_and_never_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "2", "--out", "run"]);
    succeed(path, &["export", "--run", "run", "m.safetensors"]);
    succeed(path, &["export", "--run", "run", "m.bpk"]);
    succeed(path, &["import", "m.safetensors", "--out", "imported"]);
    let before = parameters(path, "imported");
    let error = fail(path, &["train", "--resume", "imported", "--device", "cpu"]);
    assert!(error.contains("mopteq train --from imported"), "{error}");
    assert_eq!(files(path.join("imported/checkpoint")), ["epoch-0000"]);
    assert_eq!(parameters(path, "imported"), before);

    // From a run, an import and a file, the training is the same, and it differs from that with
    // random weights.
    let epoch = ["--epochs", "1", "--out"];
    for (from, out) in [
        ("run", "a"),
        ("imported", "b"),
        ("m.safetensors", "c"),
        ("m.bpk", "d"),
    ] {
        train(path, &[&["--from", from], &epoch[..], &[out]].concat());
        assert!(parameters(path, "a") == parameters(path, out), "{from}");
    }
    train(path, &[&epoch[..], &["random"]].concat());
    let loss = |run: &str| {
        let metrics = metrics(&path.join(run));
        metrics["epochs"][0]["values"]["train_loss"]
            .as_f64()
            .unwrap()
    };
    assert!(
        loss("a") < loss("random") - 0.2,
        "{} {}",
        loss("a"),
        loss("random")
    );
    // Its settings make it again, weights and all.
    let config = ["--config", "a/config.json", "--out", "again"];
    succeed(path, &[&["train", "--device", "cpu"], &config[..]].concat());
    assert!(parameters(path, "a") == parameters(path, "again"));

    // Stopped before its first epoch was over, it goes on from the weights it began with.
    train(path, &["--from", "run", "--epochs", "3", "--out", "whole"]);
    let ema = ["--ema", "0.9", "--checkpoint-minutes", "1e-9"];
    let options = [
        &["--from", "run", "--epochs", "3", "--out", "killed"],
        &ema[..],
    ]
    .concat();
    let mut child = start(path, &options);
    wait_for(&mut child, || {
        path.join("killed/checkpoint/epoch-0000").exists()
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let text = succeed(path, &["train", "--resume", "killed", "--device", "cpu"]);
    assert!(text.contains("test accuracy"), "{text}");
    let options = [
        "--from", "run", "--epochs", "3", "--ema", "0.9", "--out", "unkilled",
    ];
    train(path, &options);
    assert!(parameters(path, "unkilled") == parameters(path, "killed"));
}

#[test]
fn another_number_of_classes_gets_a_new_head_and_nothing_else_may_differ() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 10)], 20);
    train(
        path,
        &["--preset", "paper", "--epochs", "1", "--out", "run"],
    );
    succeed(path, &["export", "--run", "run", "m.safetensors"]);
    let options = ["train", "--from", "m.safetensors", "--data", "photos"];
    let options = [&options[..], &["--epochs", "1", "--device", "cpu"]].concat();
    let output = output(path, &[&options[..], &["--out", "tuned"]].concat());
    let notes = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{notes}");
    let line = "as 3 classes are not the 10 of the weights: model.head.linear.bias, \
                model.head.linear.weight";
    assert!(
        notes.contains(line) && notes.lines().count() == 1,
        "{notes}"
    );
    let config = read_json(&path.join("tuned/config.json"));
    assert_eq!(config["classes"], json!(CLASSES));
    assert_eq!(
        config["shape"],
        json!({"channels": 1, "height": 28, "width": 28})
    );
    let own = read_json(&path.join("run/config.json"));
    assert_eq!(config["normalisation"], own["normalisation"]);
    succeed(path, &["eval", "--run", "tuned", "--device", "cpu"]);

    let fails = |more: &[&str]| fail(path, &[&options[..], more].concat());
    let error = fails(&["--set", "model.core.channels=8"]);
    assert!(
        error.contains("16 x 16") && error.contains("8 x 16"),
        "{error}"
    );
    assert!(fails(&["--model", "residual"]).contains("weights do not fit"));
    let error = fail(path, &["train", "--resume", "m.safetensors"]);
    assert!(
        error.contains("is a file") && error.contains("--from"),
        "{error}"
    );
    let nowhere = ["train", "--from", "nowhere"];
    assert!(fail(path, &nowhere).contains("--from nowhere: there is no such run"));
    assert!(!path.join("runs").exists());

    // An import does not need its data.
    succeed(path, &["export", "--run", "tuned", "tuned.safetensors"]);
    succeed(path, &["import", "tuned.safetensors", "--out", "imported"]);
    fs::rename(path.join("photos"), path.join("away")).unwrap();
    let error = fail(path, &["train", "--resume", "imported", "--device", "cpu"]);
    assert!(error.contains("--from imported"), "{error}");
    fs::rename(path.join("away"), path.join("photos")).unwrap();

    // The weights are not tested on what they were trained on.
    let list = read_json(&path.join("tuned/data-files.json"));
    let names = |part: &str| list[part].as_array().unwrap().clone();
    for name in names("test") {
        fs::remove_file(path.join("photos").join(name[0].as_str().unwrap())).unwrap();
    }
    let options = [
        "train", "--from", "tuned", "--epochs", "1", "--device", "cpu",
    ];
    let error = fail(path, &[&options[..], &["--out", "again"]].concat());
    assert!(error.contains("trained on every test picture"), "{error}");
    tinted(0, 77, 20)
        .save(path.join("photos/apples/077.png"))
        .unwrap();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 80..120 {
            let file = path.join(format!("photos/{name}/{number}.png"));
            tinted(class, number, 20).save(file).unwrap();
        }
    }
    succeed(path, &[&options[..], &["--out", "again"]].concat());
    let list = read_json(&path.join("again/data-files.json"));
    let seen = [names("train"), names("valid")].concat();
    for file in list["test"].as_array().unwrap() {
        assert!(!seen.contains(file), "{file}");
    }
}

#[test]
fn a_diverged_training_fails_and_replaces_nothing_good() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let options = [
        "train",
        "--device",
        "cpu",
        "--limit",
        "50",
        "--batch-size",
        "50",
    ];
    let options = [
        &options[..],
        &["--validation-fraction", "0", "--epochs", "1"],
    ]
    .concat();
    for (number, rate) in ["1e30", "1e34", "1e38"].into_iter().enumerate() {
        let out = format!("run-{number}");
        let error = fail(
            path,
            &[&options[..], &["--lr", rate, "--out", &out]].concat(),
        );
        assert!(
            error.contains("no finite numbers") && error.contains("--lr"),
            "{error}"
        );
        assert_eq!(files(path.join(&out).join("checkpoint")), [""; 0]);
        assert!(!path.join(&out).join("summary.json").exists());
        let error = fail(path, &["train", "--resume", &out, "--device", "cpu"]);
        assert!(error.contains("no finite numbers"), "{error}");
    }
    // What was good before stays.
    train(
        path,
        &["--preset", "paper", "--epochs", "2", "--out", "good"],
    );
    fs::remove_file(path.join("good/summary.json")).unwrap();
    let config = path.join("good/config.json");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("\"epochs\": 2", "\"epochs\": 4");
    let rate = "\"learning_rate\": 0.02";
    assert!(text.contains(rate));
    fs::write(&config, text.replace(rate, "\"learning_rate\": 1e30")).unwrap();
    let error = fail(path, &["train", "--resume", "good", "--device", "cpu"]);
    let told = [
        "the loss became NaN",
        "epoch 2 is intact",
        "--from good",
        "--lr",
    ];
    assert!(told.iter().all(|word| error.contains(word)), "{error}");
    assert_eq!(
        files(path.join("good/checkpoint")),
        ["epoch-0001", "epoch-0002"]
    );
    fs::write(&config, text).unwrap();
    succeed(path, &["train", "--resume", "good", "--device", "cpu"]);
}

#[test]
fn a_finished_run_says_how_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    let resume = ["train", "--resume", "run", "--device", "cpu"];
    let more = output(path, &[&resume[..], &["--epochs", "50"]].concat());
    let error = String::from_utf8_lossy(&more.stderr);
    assert_eq!(more.status.code(), Some(2), "{error}");
    assert!(
        error.contains("tip: ") && error.contains("--from RUN"),
        "{error}"
    );
    let done = output(path, &resume);
    let note = String::from_utf8_lossy(&done.stderr);
    assert!(
        done.status.success() && note.contains("train --from run --epochs N"),
        "{note}"
    );
    // Without --resume there is no such tip.
    let other = output(path, &["train", "--device", "cpu", "--devices", "cpu"]);
    assert!(!String::from_utf8_lossy(&other.stderr).contains("tip: "));
}

#[test]
fn mistakes_with_settings_are_told_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 6)], 20);
    train(path, &["--epochs", "1", "--out", "run"]);
    let epochs = [
        "train", "--data", "photos", "--device", "cpu", "--epochs", "2",
    ];
    let with = |more: &[&str]| fail(path, &[&epochs[..], more].concat());
    let error = with(&["--patience", "1", "--validation-fraction", "0.01"]);
    assert!(
        error.contains("no picture is held out for validation"),
        "{error}"
    );
    let error = with(&["--patience", "1", "--validation-fraction", "0"]);
    assert!(error.contains("patience is 1"), "{error}");
    let error = with(&["--config", "run/config.json"]);
    let told = [
        "run/config.json is of other data",
        "apples, berries, clouds",
        "--from RUN",
    ];
    assert!(told.iter().all(|word| error.contains(word)), "{error}");
    let error = with(&["--set", "shape.height=24"]);
    assert!(error.contains("20 x 20 RGB, not 24 x 20 RGB"), "{error}");
    let error = with(&["--set", "shape.height=0"]);
    assert!(error.contains("shape is 0 x 20 RGB"), "{error}");
    assert!(with(&["--limit", "0"]).contains("limit is 0"));
    for device in ["cpu:3", "cpu:1"] {
        let refused = output(path, &["train", "--device", device]);
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(
            !refused.status.success() && error.contains("only one cpu"),
            "{error}"
        );
    }
    assert!(!path.join("runs").exists());
}
