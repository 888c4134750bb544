//! What was trained on is never tested on, however many trainings and files lie between.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// Trains a small model for an epoch; returns its warnings and notes.
fn tune(path: &Path, arguments: &[&str], out: &str) -> String {
    let paper = ["--preset", "paper"];
    let small = [
        "--set",
        "model.core.channels=4",
        "--set",
        "model.core.hidden=4",
    ];
    let small = [&paper[..], &small].concat();
    let options = ["--device", "cpu", "--batch-size", "8", "--epochs", "1"];
    let from = arguments.contains(&"--from");
    let model = if from { &[][..] } else { &small };
    let all = [&["train"], arguments, &options, model, &["--out", out]].concat();
    let output = output(path, &all);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{all:?}: {error}");
    error
}

fn list(path: &Path, run: &str) -> Value {
    read_json(&path.join(run).join("data-files.json"))
}

/// Names and digests of a part of a run's list.
fn part(path: &Path, run: &str, name: &str) -> Vec<(String, String)> {
    let list = list(path, run);
    let files = list[name].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut files: Vec<_> = files.map(|file| (text(&file[0]), text(&file[1]))).collect();
    files.sort();
    files
}

/// New pictures to train on; to test with, those that a run trained on and chose by, and others.
fn mixed(path: &Path, run: &str) {
    for (part, from) in [("train", 40), ("test", 50)] {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = path.join("mixed").join(part).join(name);
            fs::create_dir_all(&folder).unwrap();
            for number in from..from + 5 {
                let file = folder.join(format!("{number}.png"));
                tinted(class, number, 16).save(file).unwrap();
            }
        }
    }
    for name in ["train", "valid"] {
        for (number, (file, _)) in part(path, run, name).iter().enumerate() {
            let class = file.split('/').next().unwrap();
            let to = format!("mixed/test/{class}/{name}-{number}.png");
            fs::copy(path.join("photos").join(file), path.join(to)).unwrap();
        }
    }
}

#[test]
fn no_way_from_run_to_run_loses_what_was_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 20)], 16);
    assert_eq!(tune(path, &["--data", "photos"], "a"), "");
    mixed(path, "a");
    // By way of another run on a few pictures, of an export, of an import, and of all of them.
    let on_photos = ["--from", "a", "--data", "photos", "--limit", "6"];
    assert_eq!(tune(path, &on_photos, "b"), "");
    assert_eq!(list(path, "b")["train"].as_array().unwrap().len(), 6);
    succeed(path, &["export", "--run", "b", "b.safetensors"]);
    succeed(path, &["import", "b.safetensors", "--out", "imported"]);
    assert_eq!(tune(path, &["--from", "imported", "--limit", "6"], "c"), "");
    for (number, from) in ["a", "b", "b.safetensors", "imported", "c"]
        .iter()
        .enumerate()
    {
        let out = format!("mixed-{number}");
        let told = tune(path, &["--from", from, "--data", "mixed"], &out);
        let expected = "48 test pictures are left out: the weights were trained on them";
        assert!(told.contains(expected), "{from}: {told}");
        assert_eq!(part(path, &out, "test").len(), 15, "{from}");
    }
    // The same when measuring.
    for run in ["a", "b", "imported", "c", "mixed-4"] {
        let eval = ["eval", "--run", run, "--device", "cpu", "--data", "mixed"];
        let output = output(path, &eval);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            told.contains("trained on 48 of these 63 pictures"),
            "{run}: {told}"
        );
    }
    // An import is also tested with the run's own test pictures.
    let eval = ["eval", "--run", "imported", "--device", "cpu", "--json"];
    let found: Value = serde_json::from_str(&succeed(path, &eval)).unwrap();
    assert_eq!(found["scores"]["pictures"], 12);
    // One is left out of the own data: the number agrees with its noun.
    let (seen, _) = part(path, "a", "train").remove(0);
    let class = seen.split('/').next().unwrap();
    fs::create_dir_all(path.join("one/train")).unwrap();
    for name in CLASSES {
        let from = path.join("mixed/train").join(name);
        fs::rename(&from, path.join("one/train").join(name)).unwrap();
        fs::create_dir_all(path.join("one/test").join(name)).unwrap();
        let own = path.join("mixed/test").join(name).join("50.png");
        fs::copy(own, path.join(format!("one/test/{name}/50.png"))).unwrap();
    }
    let copy = path.join(format!("one/test/{class}/seen.png"));
    fs::copy(path.join("photos").join(&seen), copy).unwrap();
    let told = tune(path, &["--from", "c", "--data", "one"], "last");
    assert!(
        told.contains("1 test picture is left out: the weights were trained on it\n"),
        "{told}"
    );
}

#[test]
fn what_is_not_known_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 10)], 16);
    tune(path, &["--data", "photos"], "a");
    succeed(path, &["export", "--run", "a", "old.safetensors"]);
    // As earlier versions wrote it.
    let settings = path.join("old.json");
    let mut table = read_json(&settings);
    assert!(table.as_object_mut().unwrap().remove("seen").is_some());
    fs::write(&settings, table.to_string()).unwrap();
    let line = "old.safetensors: the list of its training pictures is incomplete";
    let told = tune(path, &["--from", "old.safetensors"], "b");
    assert!(told.contains(line) && told.lines().count() == 1, "{told}");
    // Nor is it two trainings later.
    let told = tune(path, &["--from", "b"], "c");
    assert!(
        told.contains("b: the list of its training pictures is incomplete"),
        "{told}"
    );
    succeed(path, &["import", "old.safetensors", "--out", "imported"]);
    for data in [&[][..], &["--data", "photos"]] {
        let eval = [&["eval", "--run", "imported", "--device", "cpu"], data].concat();
        let told = output(path, &eval).stderr;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(
            told.contains("imported: the list of its training pictures is incomplete"),
            "{told}"
        );
    }
    // A damaged list is an error, not an empty list.
    table["seen"] = serde_json::json!({"train": "none", "valid": ""});
    fs::write(&settings, table.to_string()).unwrap();
    let error = fail(path, &["train", "--from", "old.safetensors"]);
    assert!(error.contains("old.json: cannot be read"), "{error}");
    // The settings of an export are settings, whatever else is with them.
    tune(path, &["--data", "photos"], "d");
    succeed(path, &["export", "--run", "d", "d.safetensors"]);
    let config = [
        "train", "--config", "d.json", "--device", "cpu", "--out", "e",
    ];
    succeed(path, &config);
}

#[test]
fn another_seed_still_chooses_by_pictures_that_are_new_to_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 20)], 16);
    tune(path, &["--data", "photos"], "a");
    assert_eq!(tune(path, &["--from", "a", "--seed", "9"], "b"), "");
    assert_eq!(part(path, "a", "valid"), part(path, "b", "valid"));
    // If more are wanted than there are, a message says so.
    let more = ["--from", "b", "--seed", "3", "--validation-fraction", "0.5"];
    let told = tune(path, &more, "c");
    assert!(
        told.contains("already trained on 18 of the 24 validation pictures"),
        "{told}"
    );
    let kept = part(path, "c", "valid");
    assert!(
        part(path, "a", "valid")
            .iter()
            .all(|file| kept.contains(file))
    );

    // The same for pictures without files of their own.
    train(path, &["--epochs", "1", "--out", "digits"]);
    let again = ["--from", "digits", "--epochs", "1", "--out"];
    let seed = ["--seed", "5"];
    let tuned = output(path, &[&SHORT[..], &again, &["tuned"], &seed].concat());
    assert_eq!(String::from_utf8_lossy(&tuned.stderr), "");
    let more = ["--validation-fraction", "0.2"];
    let tuned = output(path, &[&SHORT[..], &again, &["more"], &more].concat());
    let told = String::from_utf8_lossy(&tuned.stderr).into_owned();
    assert!(
        told.contains("trained on 20 of the 40 validation pictures"),
        "{told}"
    );
    // A resumed run splits them as it did when it began.
    let options = [&SHORT[..], &again[..2], &more, &["--epochs", "2", "--out"]].concat();
    for out in ["whole", "half"] {
        succeed(path, &[&options[..], &[out]].concat());
    }
    fs::remove_file(path.join("half/summary.json")).unwrap();
    fs::remove_dir_all(path.join("half/checkpoint/epoch-0002")).unwrap();
    succeed(path, &["train", "--resume", "half", "--device", "cpu"]);
    assert!(parameters(path, "whole") == parameters(path, "half"));
    assert_eq!(metrics(&path.join("whole")), metrics(&path.join("half")));
}

/// IDX files of two classes. Each part has the first of its numbers and the number of its pictures.
fn idx(folder: &Path, parts: [(&str, u8, u8); 2]) {
    fs::create_dir_all(folder).unwrap();
    for (stem, first, count) in parts {
        let count_bytes = u32::from(count).to_be_bytes();
        let mut images = [&[0, 0, 8, 3], &count_bytes[..]].concat();
        images.extend([8_u32, 8].iter().flat_map(|side| side.to_be_bytes()));
        for number in first..first + count {
            images.extend((0..64).map(|i| (number % 2) * 100 + ((i * 7 + number) % 100)));
        }
        let file = folder.join(format!("{stem}-images-idx3-ubyte"));
        fs::write(file, images).unwrap();
        let mut labels = [&[0, 0, 8, 1], &count_bytes[..]].concat();
        labels.extend((first..first + count).map(|number| number % 2));
        let file = folder.join(format!("{stem}-labels-idx1-ubyte"));
        fs::write(file, labels).unwrap();
    }
}

#[test]
fn pictures_of_one_file_are_known_by_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    idx(&path.join("first"), [("train", 0, 40), ("t10k", 40, 10)]);
    assert_eq!(tune(path, &["--data", "first"], "a"), "");
    // Pictures that were trained on before, and others, are test pictures now.
    idx(&path.join("second"), [("train", 60, 20), ("t10k", 35, 15)]);
    let told = tune(
        path,
        &["--from", "a", "--data", "second", "--limit", "8"],
        "b",
    );
    assert!(told.contains("5 test pictures are left out"), "{told}");
    idx(&path.join("third"), [("train", 80, 20), ("t10k", 38, 6)]);
    let told = tune(path, &["--from", "b", "--data", "third"], "c");
    assert!(told.contains("2 test pictures are left out"), "{told}");
    assert_eq!(summary(&path.join("c"))["test_pictures"], 4);
    let eval = ["eval", "--run", "c", "--device", "cpu", "--json"];
    let found: Value = serde_json::from_str(&succeed(path, &eval)).unwrap();
    assert_eq!(found["scores"]["pictures"], 4);
}

#[test]
fn identical_pictures_of_both_parts_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("train", 8)], 16);
    for (class, name) in CLASSES.iter().enumerate() {
        let inside = path.join("photos/test").join(name);
        fs::create_dir_all(&inside).unwrap();
        for number in [30, 31] {
            let file = inside.join(format!("{number}.png"));
            tinted(class, number, 16).save(file).unwrap();
        }
    }
    assert_eq!(check(path, &["photos"])["repeated"], 0);
    assert_eq!(tune(path, &["--data", "photos"], "a"), "");
    fs::copy(
        path.join("photos/train/apples/000.png"),
        path.join("photos/test/apples/a.png"),
    )
    .unwrap();
    let told = tune(path, &["--data", "photos"], "b");
    let one = "1 of the 7 test pictures is also a training picture";
    assert!(told.contains(one), "{told}");
    // A copy in another class counts, too.
    fs::copy(
        path.join("photos/train/apples/001.png"),
        path.join("photos/test/clouds/a.png"),
    )
    .unwrap();
    let told = tune(path, &["--data", "photos"], "c");
    assert!(
        told.contains("2 of the 8 test pictures are also training pictures"),
        "{told}"
    );
    assert_eq!(check(path, &["photos"])["repeated"], 2);
    let output = output(path, &["data", "check", "photos"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 of the 8 test pictures"));
    // Equal values within IDX files count, too.
    idx(&path.join("idx"), [("train", 0, 40), ("t10k", 38, 5)]);
    assert_eq!(check(path, &["idx"])["repeated"], 2);
}
