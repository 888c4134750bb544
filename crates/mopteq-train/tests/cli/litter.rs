//! Files among pictures that are not pictures, or that belong to no class.

use std::fs;

use serde_json::json;

use crate::layouts::{found, lay};
use crate::support::*;

#[test]
fn what_systems_and_this_program_leave_is_no_class() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = path.join("data");
    let litter = [
        "@Transcode",
        "@sharebin",
        "TheVolumeSettingsFolder",
        "RECYCLE.BIN",
        "~snapshot",
        "CVS",
        "@eaDir",
        ".AppleDouble",
        "__MACOSX",
        "lost+found",
        "Thumbs.db",
        "$RECYCLE.BIN",
        "System Volume Information",
        ".ipynb_checkpoints",
        "#recycle",
        ".git",
    ];
    for name in litter {
        let inside = format!("a/{name}/x");
        lay(&data, &[("a", 5), ("b", 5), (name, 2), (&inside, 2)]);
        fs::write(data.join("a/Thumbs.db"), "no picture").unwrap_or_default();
        fs::write(data.join("a/._000.png"), "resource fork").unwrap();
        fs::write(data.join(".DS_Store"), "no picture").unwrap();
        pack(&data, &path.join("data.tar.gz"));
        for data in ["data", "data.tar.gz"] {
            let (classes, skipped) = found(path, data);
            assert_eq!(classes, json!({"a": [4, 1], "b": [4, 1]}), "{data}: {name}");
            assert!(skipped.is_empty(), "{skipped:?}");
            let ignored = check(path, &[data])["ignored"].clone();
            assert!(ignored.as_array().unwrap().len() >= 2, "{ignored}");
            let ignored = ignored.to_string();
            assert!(ignored.contains(name), "{ignored}");
            // Pictures are never set aside in silence.
            let answer = check(path, &[data]);
            assert_eq!(answer["ignored_pictures"], 4, "{data}: {answer}");
            let told = output(path, &["data", "check", data]).stderr;
            let told = String::from_utf8_lossy(&told).into_owned();
            let places = [format!("{name} (2)"), format!("a/{name} (2)")];
            assert!(places.iter().all(|place| told.contains(place)), "{told}");
            assert!(told.contains("4 pictures are ignored"), "{told}");
        }
    }
    // Runs, an inspection and an export lie among the classes.
    lay(&data, &[("a", 5), ("b", 5)]);
    let small = [
        "--set",
        "model.core.channels=4",
        "--set",
        "model.core.hidden=4",
    ];
    let run = ["train", "--data", ".", "--epochs", "1", "--device", "cpu"];
    for _ in 0..2 {
        succeed(&data, &[&run[..], &small].concat());
    }
    succeed(&data, &["inspect", "--run", "runs/folder-1", "a/000.png"]);
    succeed(
        &data,
        &["export", "--run", "runs/folder-1", "a/m.safetensors"],
    );
    fs::create_dir_all(data.join("b/kept")).unwrap();
    fs::rename(data.join("runs/folder-2"), data.join("b/kept/run")).unwrap();
    pack(&data, &path.join("data.tar.gz"));
    for data in ["data", "data.tar.gz"] {
        let (classes, skipped) = found(path, data);
        assert_eq!(classes, json!({"a": [4, 1], "b": [4, 1]}), "{data}");
        assert!(skipped.is_empty(), "{skipped:?}");
        let ignored = check(path, &[data])["ignored"].clone();
        let expected = ["b/kept/run", "inspection", "runs/folder-1"];
        for (place, expected) in ignored.as_array().unwrap().iter().zip(expected) {
            assert!(place.as_str().unwrap().ends_with(expected), "{ignored}");
        }
        assert_eq!(ignored.as_array().unwrap().len(), 3, "{ignored}");
    }
    for command in ["eval", "report"] {
        succeed(
            &data,
            &[command, "--run", "runs/folder-1", "--device", "cpu"],
        );
    }
    let config = fs::read(data.join("runs/folder-1/config.json")).unwrap();
    assert!(String::from_utf8_lossy(&config).contains("\"classes\""));
    // Nor does a run's, or the settings of an export, or what an inspection once left there.
    let run = "runs/folder-1";
    succeed(&data, &["export", "--run", run, "a/config.safetensors"]);
    fs::write(data.join("b/config.json"), &config).unwrap();
    fs::create_dir(data.join("b/deeper")).unwrap();
    fs::rename(data.join("b/004.png"), data.join("b/deeper/004.png")).unwrap();
    for file in [
        "inspection.json",
        "branches.png",
        "residuals.svg",
        "objective.svg",
    ] {
        fs::copy(
            data.join("inspection").join(file),
            data.join("b").join(file),
        )
        .unwrap();
    }
    // A folder of exported models is not a class either.
    fs::create_dir(data.join("models")).unwrap();
    succeed(&data, &["export", "--run", run, "models/m.safetensors"]);
    pack(&data, &path.join("data.tar.gz"));
    for data in ["data", "data.tar.gz"] {
        let (classes, skipped) = found(path, data);
        assert_eq!(classes, json!({"a": [4, 1], "b": [4, 1]}), "{data}");
        assert!(skipped.is_empty(), "{skipped:?}");
        let ignored = check(path, &[data])["ignored"].to_string();
        for name in ["models", "b/branches.png", "b/kept/run"] {
            assert!(ignored.contains(name), "{data}: {ignored}");
        }
    }
    // Pictures in a run are reported.
    fs::copy(data.join("a/000.png"), data.join("runs/folder-1/000.png")).unwrap();
    let told = output(path, &["data", "check", "data"]).stderr;
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("runs/folder-1 (1)"), "{told}");
    // Another program's config.json does not turn a class into a run.
    fs::write(data.join("a/config.json"), "{\"model\": 3}").unwrap();
    assert_eq!(found(path, "data").0, json!({"a": [4, 1], "b": [4, 1]}));
}

#[test]
fn files_are_pictures_by_their_content_and_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = path.join("data");
    lay(&data, &[("a", 5), ("b", 5)]);
    let png = fs::read(data.join("a/000.png")).unwrap();
    for name in ["a/without", "a/wrong.JPG", "b/strange.data", "b/x.jfif"] {
        fs::write(data.join(name), &png).unwrap();
    }
    fs::write(data.join("a/photo.HEIC"), "unread").unwrap();
    fs::write(data.join("b/scan.tif"), "unread").unwrap();
    fs::write(data.join("b/BMP is no picture"), "BM").unwrap();
    fs::write(data.join("b/notes.txt"), "text").unwrap();
    pack(&data, &path.join("data.tar.gz"));
    for data in ["data", "data.tar.gz"] {
        let (classes, mut skipped) = found(path, data);
        skipped.sort();
        assert_eq!(classes, json!({"a": [6, 1], "b": [6, 1]}), "{data}");
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(skipped[0].contains("a/photo.HEIC: .HEIC files are not read"));
        assert!(skipped[1].contains("b/scan.tif"), "{skipped:?}");
    }
    // A class with nothing else gives a message about it.
    fs::create_dir(data.join("c")).unwrap();
    fs::write(data.join("c/photo.avif"), "unread").unwrap();
    let error = fail(path, &["data", "check", "data"]);
    assert!(error.contains("class 'c' has no"), "{error}");
    assert!(error.contains("3 were skipped"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_and_pipes_drop_nothing_silently() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let data = path.join("data");
    lay(&data, &[("a", 5), ("b", 5)]);
    fs::rename(data.join("a/004.png"), path.join("far.png")).unwrap();
    symlink(path.join("far.png"), data.join("a/004.png")).unwrap();
    symlink(path.join("far.png"), data.join("b/again.png")).unwrap();
    symlink("../b/000.png", data.join("a/other.png")).unwrap();
    symlink("nowhere", data.join("b/broken.png")).unwrap();
    // It may have been a whole class.
    symlink("nowhere", data.join("c")).unwrap();
    for name in ["b/pipe.png", "b/pipe"] {
        let mut pipe = std::process::Command::new("mkfifo");
        assert!(pipe.arg(data.join(name)).status().unwrap().success());
    }
    let (classes, skipped) = found(path, "data");
    assert_eq!(classes, json!({"a": [4, 1], "b": [4, 1]}));
    let text = skipped.join("\n");
    assert_eq!(skipped.len(), 5, "{text}");
    for named in [
        "c: a link to nowhere that cannot be followed",
        "b/again.png: a link to",
        "a/other.png: a link to b/000.png, which counts already",
        "b/broken.png",
        "b/pipe.png: it is no regular file",
    ] {
        assert!(text.contains(named), "{named}: {text}");
    }
    let before = (classes, skipped);
    // In an archive, links have no content of their own.
    pack_with_links(&data, &path.join("data.tar.gz"));
    let error = fail(
        path,
        &["data", "check", "data.tar.gz", "--test-fraction", "0"],
    );
    assert!(error.contains("no picture is left to test on"), "{error}");
    let (classes, skipped) = found(path, "data.tar.gz");
    assert_eq!(classes, json!({"a": [3, 1], "b": [4, 1]}));
    assert_eq!(skipped.len(), 5, "{skipped:?}");
    assert!(skipped[0].contains("--dereference"), "{skipped:?}");
    // As git-annex lays it out.
    let store = data.join(".git/annex");
    fs::create_dir_all(&store).unwrap();
    for name in ["a/000.png", "b/001.png"] {
        let object = store.join(name.replace('/', "-"));
        fs::rename(data.join(name), &object).unwrap();
        symlink(&object, data.join(name)).unwrap();
    }
    assert_eq!(found(path, "data"), before);
}
