//! Data that change after a run has begun: what was trained on is never tested on.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::*;

const SMALL: [&str; 10] = [
    "--device",
    "cpu",
    "--batch-size",
    "8",
    "--set",
    "model.core.channels=4",
    "--set",
    "model.core.hidden=4",
    "--plain",
    "--epochs",
];

/// Trains on a copy of pictures without parts.
fn run_on(path: &Path, epochs: &str, out: &str) {
    let on = ["train", "--data", "photos", "--out", out];
    succeed(path, &[&on[..], &SMALL, &[epochs]].concat());
}

/// The names in a part of a run's list.
fn part(path: &Path, run: &str, name: &str) -> Vec<String> {
    let list = read_json(&path.join(run).join("data-files.json"));
    let files = list[name].as_array().unwrap().iter();
    files
        .map(|file| file[0].as_str().unwrap().to_owned())
        .collect()
}

/// Number of pictures that `eval` scores, and its warnings.
fn scored(path: &Path, run: &str) -> (u64, String) {
    let output = output(path, &["eval", "--run", run, "--device", "cpu", "--json"]);
    let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{warnings}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    (found["scores"]["pictures"].as_u64().unwrap(), warnings)
}

#[test]
fn changed_data_are_told_and_only_the_runs_own_test_pictures_are_scored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("", 20)], 16);
    run_on(path, "1", "run");
    let (train, test) = (part(path, "run", "train"), part(path, "run", "test"));
    assert_eq!((train.len(), test.len()), (42, 12));
    assert_eq!(scored(path, "run"), (12, String::new()));
    let accuracy = summary(&path.join("run"))["test_accuracy"].clone();

    // Training pictures come and go, are emptied and renamed: the score is that of before.
    let extra = tinted(1, 99, 16);
    extra.save(photos.join("apples/0000.png")).unwrap();
    fs::remove_file(photos.join(&train[0])).unwrap();
    fs::write(photos.join(&train[1]), "").unwrap();
    fs::rename(
        photos.join(&train[2]),
        photos.join(&train[2]).with_extension("moved.png"),
    )
    .unwrap();
    let (count, warnings) = scored(path, "run");
    assert_eq!(count, 12);
    for told in [
        "2 files are missing",
        &train[0],
        "1 file has moved",
        "1 file is new",
    ] {
        assert!(warnings.contains(told), "{told}: {warnings}");
    }
    let text = succeed(path, &["eval", "--run", "run", "--device", "cpu"]);
    let shown = format!("test accuracy    {:.2} %", accuracy.as_f64().unwrap());
    assert!(text.contains(&shown), "{text}");
    fs::remove_file(path.join("run/report.html")).unwrap();
    succeed(path, &["report", "--run", "run", "--device", "cpu"]);
    assert!(path.join("run/report.html").exists());

    // A test picture that is replaced by one that was trained on is left out.
    fs::copy(photos.join(&train[3]), photos.join(&test[0])).unwrap();
    let (count, warnings) = scored(path, "run");
    assert_eq!(count, 11);
    assert!(
        warnings.contains("1 file has changed") && warnings.contains(&test[0]),
        "{warnings}"
    );
    // The same for classes that come and go.
    fs::rename(photos.join("clouds"), photos.join("crowds")).unwrap();
    let (count, warnings) = scored(path, "run");
    assert_eq!(count, 7);
    assert!(
        warnings.contains("21 files are new (apples/0000.png, crowds/000.png"),
        "{warnings}"
    );
    fs::rename(photos.join("crowds"), photos.join("clouds")).unwrap();
    for name in &test {
        fs::write(photos.join(name), "").unwrap();
    }
    let error = fail(path, &["eval", "--run", "run", "--device", "cpu"]);
    assert!(error.contains("no test picture is left"), "{error}");
}

#[test]
fn the_split_of_new_data_hangs_on_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("", 20)], 16);
    run_on(path, "1", "before");
    // One picture is gone, and another class sorts before all others.
    let train = part(path, "before", "train");
    fs::remove_file(photos.join(&train[0])).unwrap();
    picture_folder(&path.join("more"), &[("", 20)], 16);
    fs::rename(path.join("more/berries"), photos.join("aardvarks")).unwrap();
    run_on(path, "1", "after");
    for name in ["test", "valid"] {
        let (before, after) = (part(path, "before", name), part(path, "after", name));
        let kept = before.iter().filter(|file| after.contains(file)).count();
        // One of each class may change sides where the share is rounded.
        assert!(kept + 1 >= before.len(), "{name}: {before:?} {after:?}");
    }
    // An archive of the same pictures is split in the same way.
    pack(&photos, &path.join("photos.tar.gz"));
    let on = ["train", "--data", "photos.tar.gz", "--out", "packed"];
    succeed(path, &[&on[..], &SMALL, &["1"]].concat());
    assert_eq!(part(path, "after", "test"), part(path, "packed", "test"));
    assert_eq!(parameters(path, "after"), parameters(path, "packed"));
}

#[test]
fn a_resume_needs_the_training_pictures_and_leaves_new_ones_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("", 20)], 16);
    run_on(path, "3", "whole");
    run_on(path, "3", "run");
    let stop = || {
        fs::remove_file(path.join("run/summary.json")).unwrap();
        fs::remove_dir_all(path.join("run/checkpoint/epoch-0003")).unwrap();
    };
    let resume = ["train", "--resume", "run", "--device", "cpu", "--plain"];
    stop();
    let train = part(path, "run", "train");
    let (gone, kept) = (photos.join(&train[0]), path.join("kept.png"));
    fs::rename(&gone, &kept).unwrap();
    let error = fail(path, &resume);
    for told in [
        "1 file is missing",
        &train[0],
        "put them back",
        "train --from",
    ] {
        assert!(error.contains(told), "{told}: {error}");
    }
    // It has another name now, there is a new one, and a test picture is gone.
    fs::rename(&kept, gone.with_extension("renamed.png")).unwrap();
    tinted(1, 99, 16)
        .save(photos.join("apples/0000.png"))
        .unwrap();
    fs::remove_file(photos.join(&part(path, "run", "test")[0])).unwrap();
    let resumed = output(path, &resume);
    let warnings = String::from_utf8_lossy(&resumed.stderr);
    assert!(
        resumed.status.success() && warnings.contains("1 file is new"),
        "{warnings}"
    );
    assert_eq!(parameters(path, "whole"), parameters(path, "run"));
    assert_eq!(summary(&path.join("run"))["test_pictures"], 11);
    // Without its list, a run of files does not know what it trained on.
    stop();
    fs::remove_file(path.join("run/data-files.json")).unwrap();
    let error = fail(path, &resume);
    assert!(error.contains("no list of its files"), "{error}");
}

#[test]
fn data_that_moved_are_found_at_their_new_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("", 20)], 16);
    run_on(path, "2", "whole");
    run_on(path, "2", "run");
    fs::rename(&photos, path.join("away")).unwrap();
    picture_folder(&path.join("other"), &[("", 3)], 20);
    for command in [
        &["eval", "--run", "run"][..],
        &["report", "--run", "run"],
        &["train", "--resume", "run"],
    ] {
        let error = fail(path, &[command, &["--device", "cpu"]].concat());
        assert!(error.contains("photos: cannot be read"), "{error}");
        assert!(
            error.contains("name the new location with --data PATH"),
            "{error}"
        );
    }
    // At the new place, the run's own test pictures are scored. Other data are scored as other
    // data.
    let eval = |data: &str| {
        let eval = ["eval", "--run", "run", "--device", "cpu", "--json"];
        let output = output(path, &[&eval[..], &["--data", data]].concat());
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{warnings}");
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        (found, warnings)
    };
    let (found, warnings) = eval("away");
    assert_eq!(found["part"], "the run's own test pictures");
    assert_eq!((&found["scores"]["pictures"], &*warnings), (&12.into(), ""));
    assert_eq!(
        found["scores"]["accuracy"],
        summary(&path.join("run"))["test_accuracy"]
    );
    pack(&path.join("away"), &path.join("away.tar.gz"));
    assert_eq!(eval("away.tar.gz").0["scores"], found["scores"]);
    let (found, _) = eval("other");
    assert_eq!(found["part"], "all pictures");
    assert_eq!(found["scores"]["pictures"], 9);
    let (found, _) = eval("away/apples/../../away");
    assert_eq!(found["part"], "the run's own test pictures");
    // An added and a removed file are reported, as ever.
    let test = part(path, "run", "test");
    fs::remove_file(path.join("away").join(&test[0])).unwrap();
    let (found, warnings) = eval("away");
    assert_eq!(found["scores"]["pictures"], 11);
    assert!(warnings.contains("1 file is missing"), "{warnings}");

    fs::remove_file(path.join("run/report.html")).unwrap();
    let report = [
        "report", "--run", "run", "--device", "cpu", "--data", "away",
    ];
    succeed(path, &report);
    assert!(path.join("run/report.html").exists());
    // A resume goes on with them, and the run remembers where they are.
    fs::remove_file(path.join("run/summary.json")).unwrap();
    fs::remove_dir_all(path.join("run/checkpoint/epoch-0002")).unwrap();
    let resume = ["train", "--resume", "run", "--device", "cpu", "--data"];
    let error = fail(path, &[&resume[..], &["other"]].concat());
    assert!(
        error.contains("other: ") && error.contains("--data PATH"),
        "{error}"
    );
    let config = read_json(&path.join("run/config.json"));
    assert!(config["data"]["path"].as_str().unwrap().ends_with("photos"));
    succeed(path, &[&resume[..], &["away"]].concat());
    assert_eq!(parameters(path, "whole"), parameters(path, "run"));
    let config = read_json(&path.join("run/config.json"));
    assert!(config["data"]["path"].as_str().unwrap().ends_with("away"));
    assert_eq!(scored(path, "run").0, 11);
    // Other settings cannot change.
    let both = output(path, &[&resume[..], &["away", "--lr", "1"]].concat());
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn a_finished_run_is_none_the_worse_for_what_comes_and_goes_beside_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("train", 6), ("test", 2)], 16);
    run_on(path, "2", "run");
    let still = |count: u64| {
        assert_eq!(scored(path, "run").0, count);
        fs::remove_file(path.join("run/report.html")).unwrap();
        succeed(path, &["report", "--run", "run", "--device", "cpu"]);
        assert!(path.join("run/report.html").exists());
    };
    for folder in ["train/new", "test/newer"] {
        fs::create_dir(photos.join(folder)).unwrap();
    }
    succeed(
        path,
        &["export", "--run", "run", "photos/models/m.safetensors"],
    );
    still(6);
    // It can go on, too.
    fs::remove_file(path.join("run/summary.json")).unwrap();
    fs::remove_dir_all(path.join("run/checkpoint/epoch-0002")).unwrap();
    let resume = ["train", "--resume", "run", "--device", "cpu", "--plain"];
    succeed(path, &resume);
    // A class is gone, a part is gone: the messages say what is missing.
    fs::remove_dir_all(photos.join("test/clouds")).unwrap();
    still(4);
    fs::rename(photos.join("train"), path.join("away")).unwrap();
    still(4);
    let (_, warnings) = scored(path, "run");
    assert!(
        warnings.contains("20 files are missing (train/"),
        "{warnings}"
    );
    fs::remove_dir_all(photos.join("test/apples")).unwrap();
    still(2);
    fs::remove_file(path.join("run/summary.json")).unwrap();
    let failed = output(path, &resume);
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    // The reason is given once.
    assert_eq!(told.matches("files are missing").count(), 1, "{told}");
    assert!(
        told.starts_with("error: ") && told.contains("put them back"),
        "{told}"
    );
    fs::remove_dir_all(&photos).unwrap();
    fs::create_dir_all(photos.join("test/apples")).unwrap();
    let error = fail(path, &["eval", "--run", "run", "--device", "cpu"]);
    assert!(
        error.contains("no test picture is left (24 files are missing"),
        "{error}"
    );
    assert!(error.contains("--data PATH"), "{error}");
}

#[test]
fn a_resume_needs_no_validation_picture_unless_it_chooses_by_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("", 20)], 16);
    run_on(path, "2", "run");
    fs::remove_file(path.join("run/summary.json")).unwrap();
    fs::remove_dir_all(path.join("run/checkpoint/epoch-0002")).unwrap();
    let valid = part(path, "run", "valid");
    fs::remove_file(photos.join(&valid[0])).unwrap();
    let resume = ["train", "--resume", "run", "--device", "cpu", "--plain"];
    let resumed = output(path, &resume);
    let told = String::from_utf8_lossy(&resumed.stderr).into_owned();
    assert!(resumed.status.success(), "{told}");
    assert!(
        told.contains(&format!("1 file is missing ({})", valid[0])),
        "{told}"
    );
    // With --patience, one must be left.
    let patient = [
        "train",
        "--data",
        "photos",
        "--patience",
        "9",
        "--out",
        "patient",
    ];
    succeed(path, &[&patient[..], &SMALL, &["2"]].concat());
    fs::remove_file(path.join("patient/summary.json")).unwrap();
    for name in part(path, "patient", "valid") {
        fs::remove_file(photos.join(name)).unwrap();
    }
    let error = fail(path, &["train", "--resume", "patient", "--device", "cpu"]);
    assert!(error.contains("no validation picture is left"), "{error}");
}

#[test]
fn files_of_many_pictures_are_known_by_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let write = |count: u32, first: u8| {
        fs::create_dir_all(path.join("photos")).unwrap();
        for (stem, count) in [("train", count), ("t10k", 10)] {
            let mut images = vec![0, 0, 8, 3];
            for size in [count, 8, 8] {
                images.extend(size.to_be_bytes());
            }
            images.extend((0..count * 64).map(|i| (i % 251) as u8 ^ first));
            let file = path.join(format!("photos/{stem}-images-idx3-ubyte"));
            fs::write(file, images).unwrap();
            let mut labels = vec![0, 0, 8, 1];
            labels.extend(count.to_be_bytes());
            labels.extend((0..count).map(|i| (i % 2) as u8));
            let file = path.join(format!("photos/{stem}-labels-idx1-ubyte"));
            fs::write(file, labels).unwrap();
        }
    };
    write(40, 0);
    run_on(path, "1", "run");
    succeed(path, &["eval", "--run", "run", "--device", "cpu"]);
    // They may move as well.
    fs::rename(path.join("photos"), path.join("away")).unwrap();
    let error = fail(path, &["train", "--from", "run", "--device", "cpu"]);
    assert!(error.contains("new location with --data"), "{error}");
    let eval = ["eval", "--run", "run", "--device", "cpu", "--data"];
    let text = succeed(path, &[&eval[..], &["away"]].concat());
    assert!(text.contains("the run's own test pictures"), "{text}");
    write(40, 1);
    fs::rename(path.join("photos"), path.join("other")).unwrap();
    let text = succeed(path, &[&eval[..], &["other"]].concat());
    assert!(text.contains("other, part 'test'"), "{text}");
    fs::rename(path.join("away"), path.join("photos")).unwrap();
    write(38, 0);
    let error = fail(path, &["eval", "--run", "run", "--device", "cpu"]);
    assert!(
        error.contains("train-images-idx3-ubyte") && error.contains("changed"),
        "{error}"
    );
}
