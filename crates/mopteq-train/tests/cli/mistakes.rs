//! Every mistake of the user gets one clear line.

use std::fs;

use crate::support::*;

#[test]
fn every_mistake_gets_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(
        path,
        &["--preset", "paper", "--epochs", "1", "--out", "run"],
    );
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
    assert!(fail(path, &["export", "--run", "run", "a.onnx"]).contains(".safetensors"));
    assert!(fail(path, &["import", "a.safetensors", "--out", "b"]).contains("a.json"));
    assert!(fail(path, &["runs", "nowhere"]).contains("nowhere"));

    let copy = |name: &str, file: &str, content: Option<&str>| {
        let to = path.join(name);
        fs::create_dir_all(to.join("checkpoint/epoch-0001")).unwrap();
        for part in ["config.json", "metrics.json"] {
            fs::copy(path.join("run").join(part), to.join(part)).unwrap();
        }
        for part in ["model.bpk", "optim.bpk", "state.json"] {
            let part = format!("checkpoint/epoch-0001/{part}");
            fs::copy(path.join("run").join(&part), to.join(&part)).unwrap();
        }
        match content {
            Some(content) => fs::write(to.join(file), content).unwrap(),
            None => fs::remove_dir_all(to.join(file)).unwrap(),
        }
    };
    copy("bare", "checkpoint/epoch-0001", None);
    assert!(predict("bare", "one.png").contains("bare has no complete checkpoint"));
    copy(
        "damaged",
        "checkpoint/epoch-0001/model.bpk",
        Some("no record"),
    );
    assert!(predict("damaged", "one.png").contains("model.bpk: damaged"));
    assert!(fail(path, &["train", "--resume", "damaged"]).contains("model.bpk: damaged"));
    copy("unread", "config.json", Some("{ \"epochs\": "));
    assert!(predict("unread", "one.png").contains("config.json: not valid"));
    let config = fs::read_to_string(path.join("run/config.json")).unwrap();
    let none = config.replace("\"epochs\": 1", "\"epochs\": 0");
    copy("wrong", "config.json", Some(&none));
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
        (
            "--rand-augment",
            "2,11",
            "augmentation.rand_augment.magnitude",
        ),
        (
            "--rand-augment",
            "15,9",
            "augmentation.rand_augment.operations",
        ),
        ("--set", "model.core.channels=0", "channels"),
        ("--set", "epoch=3", "did you mean epochs?"),
        ("--set", "epochs=many", "many"),
        ("--data", "cifar-10", "did you mean cifar10?"),
        ("--data", "one.png", "neither a folder nor"),
        ("--data", "empty", "no picture"),
        ("--config", "missing.toml", "missing.toml"),
        ("--devices", "cpu,rocm", "rocm"),
    ] {
        let error = fail(path, &["train", &format!("{option}={value}")]);
        assert!(error.contains(named), "{error}");
    }
    fs::write(
        path.join("options.toml"),
        "epochs = 3\nlearning_rat = 0.1\n",
    )
    .unwrap();
    let error = fail(path, &["train", "--config", "options.toml"]);
    assert!(
        error.contains("options.toml") && error.contains("learning_rate?"),
        "{error}"
    );
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

    // The argument parser reports invalid options, with its own exit code.
    for (arguments, named) in [
        (&["train", "--device", "cude"][..], "did you mean cuda?"),
        (&["train", "--precision", "fp16"], "f32, bf16"),
        (&["train", "--epochs", "many"], "many"),
        (
            &["train", "--resume", "run", "--epochs", "3"],
            "cannot be used",
        ),
        (&["train", "--rand-augment", "9"], "such as 2,9"),
        (&["predict", "--run", "run"], "PATH"),
        (&["data", "get", "cifar"], "cifar10"),
        (&["train", "--schedule", "cosin"], "cosine"),
        (&["dance"], "dance"),
    ] {
        let output = output(path, arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(
            error.starts_with("error: ") && error.contains(named) && !error.contains("panic"),
            "{error}"
        );
    }
}

#[test]
fn help_completions_and_the_man_page_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for command in [
        "train", "eval", "predict", "inspect", "export", "import", "bench", "runs", "report",
    ] {
        let help = succeed(path, &[command, "--help"]);
        assert!(help.contains("Example"), "{command}: {help}");
        // Colour is for terminals.
        assert!(!help.contains('\x1b'), "{command}");
    }
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(
            succeed(path, &["completions", shell]).contains("mopteq"),
            "{shell}"
        );
    }
    assert!(succeed(path, &["man"]).starts_with(".ie"));
    assert!(succeed(path, &["data", "list"]).contains("imagenette"));
}

#[cfg(not(feature = "download"))]
#[test]
fn a_build_without_downloads_names_the_command_that_gets_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["data", "get", "cifar10"][..],
        &["train", "--data", "cifar10"],
    ] {
        let message = fail(folder.path(), arguments);
        assert!(message.contains("--features download"), "{message}");
        let file = folder.path().join("cache/cifar-10-binary.tar.gz");
        let command = format!("curl -L --create-dirs -o '{}' https://", file.display());
        assert!(message.contains(&command), "{message}");
    }
    // The file at its place is all that is missing.
    let file = folder.path().join("cache/cifar-10-binary.tar.gz");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "no archive").unwrap();
    let message = fail(folder.path(), &["train", "--data", "cifar10"]);
    assert!(message.contains("cut off archive"), "{message}");
}

#[test]
fn numbers_that_are_none_or_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for option in [
        "--lr",
        "--perturbation",
        "--warmup",
        "--clip-norm",
        "--test-fraction",
    ] {
        for value in ["nan", "inf", "much"] {
            let output = output(path, &["train", "--epochs", "1", option, value]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{option} {value}: {error}");
            assert!(error.contains("number"), "{option} {value}: {error}");
        }
    }
    for (option, field) in [
        ("--lr", "learning_rate"),
        ("--validation-fraction", "validation"),
    ] {
        let message = fail(path, &["train", option, "-1"]);
        assert!(
            message.contains(field) && message.contains("-1"),
            "{message}"
        );
    }
    let message = fail(path, &["train", "--size", "100000"]);
    assert!(message.contains("1 to 4096 pixels"), "{message}");
}
