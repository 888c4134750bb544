//! How folders of pictures are laid out in practice, and how each is read.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::*;

/// Puts pictures at these paths, with this many in each folder.
pub fn lay(root: &Path, folders: &[(&str, usize)]) {
    let _ = fs::remove_dir_all(root);
    for (number, (folder, count)) in folders.iter().enumerate() {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..*count {
            let picture = tinted(number, i, 16);
            picture.save(folder.join(format!("{i:03}.png"))).unwrap();
        }
    }
}

/// Classes with their numbers of training and test pictures, and what was left out.
pub fn found(folder: &Path, data: &str) -> (Value, Vec<String>) {
    let answer = check(folder, &[data]);
    let classes = answer["classes"].as_array().unwrap().iter();
    let counts = classes.enumerate().map(|(i, class)| {
        let class = class.as_str().unwrap().to_owned();
        (class, json!([answer["train"][i], answer["test"][i]]))
    });
    let skipped = answer["skipped"].as_array().unwrap().iter();
    let skipped = skipped.map(|line| line.as_str().unwrap().to_owned());
    (Value::Object(counts.collect()), skipped.collect())
}

/// The folder and its archive are the same data, with nothing left out but what is named.
pub fn is(folder: &Path, folders: &[(&str, usize)], expected: Value, left_out: &[&str]) {
    let data = folder.join("data");
    lay(&data, folders);
    pack(&data, &folder.join("data.tar.gz"));
    for name in ["data", "data.tar.gz"] {
        let (classes, skipped) = found(folder, name);
        assert_eq!(classes, expected, "{name}: {folders:?}");
        assert_eq!(skipped.len(), left_out.len(), "{name}: {skipped:?}");
        for (line, named) in skipped.iter().zip(left_out) {
            assert!(line.contains(named), "{line}");
        }
    }
}

/// Neither the folder nor its archive can be read, and the error says why.
pub fn is_unclear(folder: &Path, folders: &[(&str, usize)], named: &[&str]) {
    let data = folder.join("data");
    lay(&data, folders);
    pack(&data, &folder.join("data.tar.gz"));
    for name in ["data", "data.tar.gz"] {
        let error = fail(folder, &["data", "check", name]);
        assert!(named.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn a_part_is_a_folder_that_holds_class_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in [
        "train",
        "test",
        "valid",
        "validation",
        "val",
        "training",
        "testing",
    ] {
        let expected = json!({"bus": [8, 2], "car": [8, 2], name: [8, 2]});
        is(path, &[("bus", 10), ("car", 10), (name, 10)], expected, &[]);
        let [in_train, in_test] = ["train", "test"].map(|part| format!("{part}/{name}"));
        let folders = [
            ("train/bus", 6),
            (&in_train, 6),
            ("test/bus", 2),
            (&in_test, 2),
        ];
        is(path, &folders, json!({"bus": [6, 2], name: [6, 2]}), &[]);
    }
}

#[test]
fn parts_have_many_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (train, test) in [
        ("training_set", "test_set"),
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train/images", "test/images"),
        ("train_data", "dev"),
        ("trainset", "devset"),
        ("train2017", "val2017"),
        ("trainImages", "TestImages"),
        ("archive/Train", "archive/Validation"),
    ] {
        let names = [train, test].map(|part| ["a", "b"].map(|class| format!("{part}/{class}")));
        let folders = [
            (&*names[0][0], 6),
            (&names[0][1], 6),
            (&names[1][0], 2),
            (&names[1][1], 2),
        ];
        is(path, &folders, json!({"a": [6, 2], "b": [6, 2]}), &[]);
    }
    // A class whose name only begins like that of a part.
    let folders = [("train station/old", 5), ("test tube", 5)];
    let expected = json!({"train station": [4, 1], "test tube": [4, 1]});
    is(path, &folders, expected, &[]);
    // So do classes whose folders have the same names in them.
    let folders = [
        ("test tube/front", 3),
        ("test tube/back", 2),
        ("cup/left", 3),
        ("cup/right", 2),
        ("fold", 5),
    ];
    let expected = json!({"cup": [4, 1], "fold": [4, 1], "test tube": [4, 1]});
    is(path, &folders, expected, &[]);
    // With a test part, the others are trained on.
    let folders = [
        ("train/a", 4),
        ("train/b", 4),
        ("dev/a", 2),
        ("dev/b", 2),
        ("test/a", 1),
        ("test/b", 1),
    ];
    is(path, &folders, json!({"a": [6, 1], "b": [6, 1]}), &[]);
}

#[test]
fn the_class_is_the_folder_below_the_root_however_deep_the_pictures_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let folders = [
        ("cats/kaggle", 6),
        ("cats/archive/old", 4),
        ("dogs/kaggle", 10),
    ];
    is(path, &folders, json!({"cats": [8, 2], "dogs": [8, 2]}), &[]);
    let folders = [
        ("train/cats", 5),
        ("train/cats/more", 5),
        ("train/dogs", 10),
        ("test/cats/more", 4),
        ("test/dogs", 4),
    ];
    is(
        path,
        &folders,
        json!({"cats": [10, 4], "dogs": [10, 4]}),
        &[],
    );
    // As in Tiny ImageNet.
    let folders = [("train/n01/images", 10), ("train/n02/images", 10)];
    is(path, &folders, json!({"n01": [8, 2], "n02": [8, 2]}), &[]);
    let folders = [("wrapper/again/a/x", 5), ("wrapper/again/b", 5)];
    is(path, &folders, json!({"a": [4, 1], "b": [4, 1]}), &[]);
}

#[test]
fn pictures_that_belong_to_no_class_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let folders = [("", 1), ("a", 5), ("b", 5)];
    let expected = json!({"a": [4, 1], "b": [4, 1]});
    is(
        path,
        &folders,
        expected.clone(),
        &["000.png: it lies in no class folder"],
    );
    let folders = [("photos", 1), ("photos/a", 5), ("photos/b", 5)];
    is(path, &folders, expected, &["photos/000.png: it lies"]);
    let folders = [("photos", 1), ("photos/train/a", 5), ("photos/train/b", 5)];
    is(
        path,
        &folders,
        json!({"a": [4, 1], "b": [4, 1]}),
        &["photos/000.png"],
    );
    let parts = [("train/a", 4), ("train/b", 4), ("test/a", 1), ("test/b", 1)];
    let expected = json!({"a": [4, 1], "b": [4, 1]});
    let with = |other| [&parts[..], &[(other, 1)]].concat();
    is(
        path,
        &with("seg_pred/seg_pred"),
        expected.clone(),
        &["seg_pred/000.png"],
    );
    is(path, &with("train"), expected, &["train/000.png"]);
    // Unlabelled pictures are no class.
    let folders = [("train/a", 5), ("train/b", 5), ("test", 1)];
    is(
        path,
        &folders,
        json!({"a": [4, 1], "b": [4, 1]}),
        &["test/000.png"],
    );
}

#[test]
fn what_is_unclear_is_asked_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (folders, named) in [
        (
            &[("train", 5), ("test", 5)][..],
            &["test, train", "CLASS"][..],
        ),
        (
            &[("a/train", 4), ("a/test", 1), ("b/train", 4), ("b/test", 1)],
            &["'a' holds the parts"],
        ),
        (
            &[
                ("train/a", 4),
                ("train/b", 4),
                ("training/a", 4),
                ("training/b", 4),
            ],
            &["'train' and 'training'", "same part"],
        ),
        (
            &[("train/a", 4), ("train/b", 4), ("extra", 4)],
            &["'train' looks like a part", "'extra'"],
        ),
        (
            &[("a", 4), ("b", 4), ("test/a", 4), ("test/b", 4)],
            &["'test' looks like a part", "'a'"],
        ),
        (&[("test/a", 4), ("test/b", 4)], &["no folder 'train'"]),
        (
            &[("train/a", 4), ("train/b", 4), ("test", 0)],
            &["its part 'test' has no picture"],
        ),
        (&[("a", 4)], &["only one class, 'a'"]),
        // Parts by other names.
        (
            &[
                ("flowers_train/a", 4),
                ("flowers_train/b", 4),
                ("flowers_test/a", 2),
                ("flowers_test/b", 2),
            ],
            &[
                "'flowers_test' looks like a part",
                "as in train/a/ and test/a/",
            ],
        ),
        (
            &[
                ("my_train_data/a", 4),
                ("my_train_data/b", 4),
                ("holdout/a", 2),
                ("holdout/b", 2),
            ],
            &["'my_train_data' looks like a part", "rename"],
        ),
        (
            &[
                ("fold0/a", 3),
                ("fold0/b", 3),
                ("fold1/a", 3),
                ("fold1/b", 3),
                ("fold2/a", 3),
                ("fold2/b", 3),
            ],
            &["'fold0' looks like a part", "into one folder"],
        ),
        (
            &[
                ("x/train/a", 4),
                ("x/train/b", 4),
                ("y/test/a", 2),
                ("y/test/b", 2),
            ],
            &["several folders (x, y)", "side by side"],
        ),
        (
            &[
                ("train/fold0/a", 3),
                ("train/fold0/b", 3),
                ("train/fold1/a", 3),
                ("train/fold1/b", 3),
            ],
            &["'fold0' looks like a part"],
        ),
        (
            &[("split_1/a", 3), ("split_2/a", 3), ("others", 4)],
            &["'split_1' looks like a part"],
        ),
        (
            &[
                ("cats/cats_train", 4),
                ("cats/cats_test", 2),
                ("dogs/dogs_train", 4),
                ("dogs/dogs_test", 2),
            ],
            &["'cats' holds the parts"],
        ),
    ] {
        is_unclear(path, folders, named);
    }
}
