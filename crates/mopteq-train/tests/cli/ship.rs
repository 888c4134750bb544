//! Model cards, ONNX files and logs for other programs.

use std::fs;

use crate::support::{fail, files, output, picture_folder, read_json, succeed, train};

#[test]
fn an_export_has_a_card_and_an_onnx_graph() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(
        path,
        &["--preset", "paper", "--epochs", "1", "--out", "run"],
    );
    let export = |arguments: &[&str]| {
        let common = ["export", "--device", "cpu", "--run", "run"];
        succeed(path, &[&common[..], arguments].concat())
    };
    let said = export(&["out/m.safetensors", "--onnx", "out/m.onnx", "--steps", "3"]);
    assert!(said.contains("3 plain steps from 0"), "{said}");
    let expected = ["README.md", "m.json", "m.onnx", "m.safetensors"];
    assert_eq!(files(path.join("out")), expected);
    let card = fs::read_to_string(path.join("out/README.md")).unwrap();
    let accuracy = read_json(&path.join("run/summary.json"))["test_accuracy"].clone();
    for text in [
        "---\nlibrary_name: mopteq\n",
        "pipeline_tag: image-classification",
        "datasets:\n- ylecun/mnist",
        "split: test",
        &format!("{:.2} %", accuracy.as_f64().unwrap()),
        "CC BY-SA 3.0",
        "What is reconstructed",
        "mopteq import m.safetensors --out run",
        "onnxruntime.InferenceSession(\"m.onnx\")",
    ] {
        assert!(card.contains(text), "no {text} in\n{card}");
    }

    // Its own card and graph are written again; another's card, and other files, stay.
    export(&["out/m.safetensors", "--onnx", "out/m.onnx"]);
    let loops = fs::read(path.join("out/m.onnx")).unwrap();
    assert!(loops.windows(4).any(|w| w == b"Loop"));
    let changed = card.replace("# m\n", "# My model\n");
    fs::write(path.join("out/README.md"), &changed).unwrap();
    let common = ["export", "--device", "cpu", "--run", "run"];
    let kept = output(path, &[&common[..], &["out/m.safetensors"]].concat());
    let note = String::from_utf8_lossy(&kept.stderr).into_owned();
    assert!(
        kept.status.success() && note.contains("was changed"),
        "{note}"
    );
    assert_eq!(
        fs::read_to_string(path.join("out/README.md")).unwrap(),
        changed
    );
    fs::write(path.join("out/other.onnx"), "mine").unwrap();
    let mistake = |arguments: &[&str]| fail(path, &[&common[..], arguments].concat());
    let error = mistake(&["--onnx", "out/other.onnx"]);
    assert!(
        error.contains("other.onnx exists, and this program did not write it"),
        "{error}"
    );
    assert!(mistake(&["--onnx", "m.onnx", "--steps", "1001"]).contains("1 to 1000 steps"));
    assert!(mistake(&["--onnx", "m.pb"]).contains("must end in .onnx"));
    assert!(mistake(&["m.onnx"]).contains("--onnx"));
    assert_eq!(fs::read(path.join("out/other.onnx")).unwrap(), b"mine");
}

#[test]
fn what_cannot_be_a_graph_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(
        path,
        &[
            "--epochs",
            "1",
            "--set",
            "model.core.diversity=0.01",
            "--out",
            "run",
        ],
    );
    let error = fail(path, &["export", "--run", "run", "--onnx", "m.onnx"]);
    assert!(
        error.contains("m.onnx") && error.contains("`diversity`"),
        "{error}"
    );
    assert!(!path.join("m.onnx").exists());
}

#[test]
fn the_card_of_own_pictures_leaves_their_licence_open() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 6)], 20);
    let data = [
        "--data", "photos", "--size", "16", "--epochs", "1", "--out", "run",
    ];
    train(path, &data);
    succeed(path, &["export", "--run", "run", "--onnx", "out/m.onnx"]);
    assert_eq!(files(path.join("out")), ["README.md", "m.onnx"]);
    let card = fs::read_to_string(path.join("out/README.md")).unwrap();
    assert!(
        card.contains("State their source and their licence"),
        "{card}"
    );
    assert!(card.contains("`apples`, `berries`, `clouds`"), "{card}");
    assert!(!card.contains(&*path.to_string_lossy()), "{card}");
}

#[test]
fn a_log_is_kept_only_if_it_is_asked_for_and_resumes_go_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "quiet"]);
    assert!(!path.join("quiet/tensorboard").exists());
    train(
        path,
        &["--epochs", "2", "--log", "tensorboard", "--out", "run"],
    );
    let size = || {
        let log = path.join("run/tensorboard");
        let names = files(log.clone());
        let length = |name: &String| fs::metadata(log.join(name)).unwrap().len();
        (names.len(), names.iter().map(length).sum::<u64>())
    };
    let (count, whole) = size();
    assert_eq!(count, 1);
    // As if it had been killed before the second epoch was saved.
    fs::remove_file(path.join("run/summary.json")).unwrap();
    fs::remove_dir_all(path.join("run/checkpoint/epoch-0002")).unwrap();
    succeed(path, &["train", "--device", "cpu", "--resume", "run"]);
    let (count, again) = size();
    // The second file says what it is and where it goes on.
    assert!(
        count == 2 && (whole + 1..whole + 200).contains(&again),
        "{whole} {again}"
    );
}
