//! From a folder of one's own pictures to predictions, report and export.

use std::fs;

use serde_json::{Value, json};

use crate::support::*;

#[test]
fn digits_are_classified() {
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
    let arguments = [
        "predict", "--run", "run", "--invert", "--steps", "2", "pictures",
    ];
    let output = output(path, &arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let named: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    assert!(output.status.success());
    assert!(named[0].ends_with("a.jpg") && named[1].ends_with("b.png") && named.len() == 2);
    assert!(String::from_utf8_lossy(&output.stderr).contains("notes.txt"));
}

/// Names in a page that make a browser load something else.
fn references(html: &str) -> Vec<String> {
    let inside = |value: &str| value.starts_with("data:") || value.starts_with('#');
    let mut found = Vec::new();
    for name in [
        "src=\"",
        "href=\"",
        "url(",
        "srcset=\"",
        "action=\"",
        "data=\"",
        "poster=\"",
    ] {
        for part in html.split(name).skip(1) {
            if !inside(part) {
                found.push(format!(
                    "{name}{}",
                    part.chars().take(40).collect::<String>()
                ));
            }
        }
    }
    for word in [
        "http://", "https://", "//cdn", "@import", "<script", "<link", "<iframe", "<object",
    ] {
        if html.contains(word) {
            found.push(word.into());
        }
    }
    found
}

#[test]
fn ones_own_pictures_are_trained_on_inspected_reported_and_shipped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("train", 24), ("test", 8)], 20);
    let common = ["--device", "cpu"];
    let text = succeed(
        path,
        &[
            "train",
            "--data",
            "photos",
            "--epochs",
            "3",
            "--device",
            "cpu",
            "--batch-size",
            "8",
            "--set",
            "model.core.channels=8",
            "--set",
            "model.core.hidden=8",
            "--out",
            "run",
        ],
    );
    assert!(text.contains("of 24 pictures"), "{text}");
    // Three colours are an easy task.
    assert!(
        summary(&path.join("run"))["test_accuracy"]
            .as_f64()
            .unwrap()
            > 90.0
    );

    let picture = "photos/test/berries/000.png";
    let text = succeed(
        path,
        &[&["predict", "--run", "run", "--json", picture], &common[..]].concat(),
    );
    let found: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(found["classes"][0]["class"], "berries", "{text}");

    let arguments = ["inspect", "--run", "run", picture, "--out", "look"];
    let text = succeed(path, &[&arguments[..], &common].concat());
    assert!(text.contains("berries"), "{text}");
    assert_eq!(
        files(path.join("look")),
        [
            "branches.png",
            "inspection.json",
            "objective.svg",
            "residuals.svg"
        ]
    );
    let seen = read_json(&path.join("look/inspection.json"));
    let values = |name: &str| -> Vec<f64> {
        let list = seen[name].as_array().unwrap().iter();
        list.map(|value| value.as_f64().unwrap()).collect()
    };
    let objective = values("objective");
    assert!(objective.last() < objective.first());
    assert!(values("solver_residuals").last() < values("solver_residuals").first());

    let html = fs::read_to_string(path.join("run/report.html")).unwrap();
    assert_eq!(references(&html), Vec::<String>::new());
    for text in [
        "Loss",
        "Residuals in training",
        "Confusion matrix",
        "prefers-color-scheme",
        "touched once",
        "Accuracy and solver steps",
        "largest number of solver steps per picture",
        "test accuracy (%)",
        "with the limit of the run",
        "nothing was chosen by it",
        "viewport",
        "berries",
        "config.json",
    ] {
        assert!(html.contains(text), "no {text}");
    }
    fs::remove_file(path.join("run/report.html")).unwrap();
    succeed(path, &[&["report", "--run", "run"], &common[..]].concat());
    assert_eq!(
        references(&fs::read_to_string(path.join("run/report.html")).unwrap()),
        Vec::<String>::new()
    );

    for file in ["model.safetensors", "model.bpk"] {
        let out = format!("from-{file}");
        succeed(
            path,
            &[&["export", "--run", "run", file], &common[..]].concat(),
        );
        succeed(
            path,
            &[&["import", file, "--out", &out], &common[..]].concat(),
        );
        let predict = |run: &str| {
            succeed(
                path,
                &[
                    &["predict", "--run", run, "photos/test/clouds"],
                    &common[..],
                ]
                .concat(),
            )
        };
        assert_eq!(predict(&out), predict("run"));
        // An imported file that is cut off says so.
        let whole = fs::read(path.join(file)).unwrap();
        fs::write(path.join(file), &whole[..whole.len() / 2]).unwrap();
        let error = fail(
            path,
            &[&["import", file, "--out", "half"], &common[..]].concat(),
        );
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn nothing_of_the_users_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 5)], 20);
    train(path, &["--epochs", "1", "--out", "run"]);
    train(path, &["--epochs", "1", "--seed", "7", "--out", "other"]);
    let own = || fs::read(path.join("photos/apples/000.png")).unwrap();
    let before = own();

    // A contact sheet is drawn over another, and over no other picture.
    let show = |out: &str| output(path, &["data", "show", "photos", "--out", out]);
    assert!(show("sheet.png").status.success() && show("sheet.png").status.success());
    let error = failed(&show("photos/apples/000.png"), &["show"]);
    assert!(
        error.contains("000.png exists, and this program did not write it"),
        "{error}"
    );
    // Drawn into a class folder, it is not a picture of the class.
    assert!(show("photos/apples/sheet.png").status.success());
    let found = check(path, &["photos"]);
    assert_eq!(
        (&found["train"], &found["test"]),
        (&json!([4, 4, 4]), &json!([1, 1, 1]))
    );
    assert_eq!(found["shape"]["height"], 20);
    let skipped = found["skipped"].to_string();
    assert!(
        skipped.contains("sheet.png: this program drew it"),
        "{skipped}"
    );
    fs::remove_file(path.join("photos/apples/sheet.png")).unwrap();
    fs::write(path.join("notes.png"), "text").unwrap();
    assert!(failed(&show("notes.png"), &["show"]).contains("notes.png exists"));

    // An inspection goes into a folder of its own.
    let look = |out: &str| {
        let picture = "photos/apples/000.png";
        output(path, &["inspect", "--run", "run", picture, "--out", out])
    };
    fs::create_dir(path.join("empty")).unwrap();
    for out in ["empty", "new", "new"] {
        assert!(look(out).status.success(), "{out}");
    }
    for out in ["photos", "photos/apples", "run", "notes.png"] {
        let error = failed(&look(out), &["inspect"]);
        assert!(
            error.contains("exists") && error.contains("--out"),
            "{out}: {error}"
        );
    }

    // An export replaces an export, and nothing else.
    let export = |run: &str, file: &str| output(path, &["export", "--run", run, file]);
    for (run, file) in [
        ("run", "m.safetensors"),
        ("other", "m.safetensors"),
        ("other", "m.bpk"),
        ("run", "n.bpk"),
    ] {
        assert!(export(run, file).status.success(), "{run} {file}");
    }
    fs::write(path.join("k.json"), "{}").unwrap();
    fs::write(path.join("l.bpk"), "mine").unwrap();
    fs::copy(path.join("n.json"), path.join("p.json")).unwrap();
    for (file, named) in [
        ("m.bpk", "m.json exists, and it belongs to another model"),
        ("k.bpk", "k.json exists, and it holds no settings"),
        ("l.bpk", "l.bpk exists, and it has no settings"),
        (
            "other/config.bpk",
            "config.json exists, and no exported model is beside it",
        ),
    ] {
        let error = failed(&export("run", file), &["export"]);
        assert!(error.contains(named), "{error}");
    }
    assert!(export("run", "p.bpk").status.success(), "the same settings");
    assert_eq!(own(), before);
    assert_eq!(fs::read(path.join("l.bpk")).unwrap(), b"mine");
    assert_eq!(files(path.join("photos/apples")).len(), 5);
}
