//! Data sets in all their forms, whole and damaged.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;

use crate::support::*;

/// Planes of a picture, as in CIFAR.
fn planes(picture: &image::RgbImage) -> Vec<u8> {
    (0..3)
        .flat_map(|c| picture.pixels().map(move |pixel| pixel.0[c]))
        .collect()
}

/// CIFAR-10 in the official layout, with `each` pictures per file.
fn cifar10(folder: &Path, each: usize) {
    fs::create_dir_all(folder).unwrap();
    let names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ];
    fs::write(folder.join("batches.meta.txt"), names.join("\n") + "\n\n").unwrap();
    let files = (1..6)
        .map(|i| format!("data_batch_{i}.bin"))
        .chain(["test_batch.bin".into()]);
    for (number, name) in files.enumerate() {
        let mut bytes = Vec::new();
        for i in 0..each {
            bytes.push((i % 10) as u8);
            bytes.extend(planes(&tinted(i % 10, number * each + i, 32)));
        }
        fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn cifar_10_in_its_official_form_and_as_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    cifar10(&path.join("bin/cifar-10-batches-bin"), 20);
    pack(&path.join("bin"), &path.join("cifar.tar.gz"));
    // As burn-dataset lays it out: the same pictures as files.
    for (part, numbers) in [("train", 0..5), ("test", 5..6)] {
        for number in numbers {
            for i in 0..20 {
                let names = [
                    "airplane",
                    "automobile",
                    "bird",
                    "cat",
                    "deer",
                    "dog",
                    "frog",
                    "horse",
                    "ship",
                    "truck",
                ];
                let class = path.join("png").join(part).join(names[i % 10]);
                fs::create_dir_all(&class).unwrap();
                let picture = tinted(i % 10, number * 20 + i, 32);
                picture
                    .save(class.join(format!("{number}-{i}.png")))
                    .unwrap();
            }
        }
    }
    pack(&path.join("png"), &path.join("pictures.tgz"));
    let mut found = Vec::new();
    for data in ["bin", "cifar.tar.gz", "png", "pictures.tgz"] {
        let by_path = check(path, &[data]);
        assert_eq!(by_path["kind"], "cifar10", "{data}");
        assert_eq!(by_path["train"], serde_json::json!(vec![10; 10]), "{data}");
        assert_eq!(by_path["test"], serde_json::json!(vec![2; 10]), "{data}");
        // The same pixels in every form.
        found.push(by_path["normalisation"].clone());
        assert_eq!(check(path, &["cifar10", "--data-path", data]), by_path);
    }
    assert!(
        found.iter().all(|constants| *constants == found[0]),
        "{found:?}"
    );

    // The preset has the settings of the paper.
    succeed(
        path,
        &[
            "train",
            "--data",
            "bin",
            "--limit",
            "20",
            "--epochs",
            "1",
            "--device",
            "cpu",
            "--set",
            "model.core.channels=4",
            "--set",
            "model.core.hidden=4",
            "--out",
            "run",
        ],
    );
    let config = read_json(&path.join("run/config.json"));
    assert_eq!(config["data"]["kind"], "cifar10");
    assert_eq!(config["batch_size"], 128);
    assert_eq!(config["learning_rate"], 0.1);
    assert_eq!(config["milestones"], serde_json::json!([0.5, 0.75, 0.875]));
    assert_eq!(config["weight_decay"], 1e-3);

    let cut = |name: &str, length: usize| {
        let file = path.join("bin/cifar-10-batches-bin").join(name);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..length]).unwrap();
    };
    cut("data_batch_3.bin", 3073 * 7 + 5);
    let error = fail(path, &["data", "check", "bin"]);
    assert!(
        error.contains("data_batch_3.bin") && error.contains("3073"),
        "{error}"
    );
    cut("data_batch_3.bin", 3073 * 7);
    fs::remove_file(path.join("bin/cifar-10-batches-bin/data_batch_4.bin")).unwrap();
    let error = fail(path, &["data", "check", "bin"]);
    assert!(error.contains("no data_batch_4.bin"), "{error}");
}

#[test]
fn cifar_100_in_its_official_form() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let inside = path.join("cifar-100-binary");
    fs::create_dir_all(&inside).unwrap();
    let fine: Vec<String> = (0..100).map(|class| format!("fine {class}")).collect();
    fs::write(inside.join("fine_label_names.txt"), fine.join("\n")).unwrap();
    fs::write(inside.join("coarse_label_names.txt"), "coarse\n".repeat(20)).unwrap();
    for (name, each) in [("train.bin", 3), ("test.bin", 1)] {
        let mut bytes = Vec::new();
        for i in 0..each * 100 {
            bytes.extend([(i % 20) as u8, (i % 100) as u8]);
            bytes.extend(planes(&tinted(i, i, 32)));
        }
        fs::write(inside.join(name), bytes).unwrap();
    }
    pack(&inside, &path.join("cifar-100-binary.tar.gz"));
    for data in ["cifar-100-binary", ".", "cifar-100-binary.tar.gz"] {
        let found = check(path, &[data]);
        assert_eq!(found["kind"], "cifar100", "{data}");
        assert_eq!(found["classes"][42], "fine 42");
        assert_eq!(found["train"], serde_json::json!(vec![3; 100]));
        assert_eq!(found["test"], serde_json::json!(vec![1; 100]));
    }
    let train = fs::read(inside.join("train.bin")).unwrap();
    fs::write(
        inside.join("train.bin"),
        [&train[..1], &[200], &train[2..]].concat(),
    )
    .unwrap();
    let error = fail(path, &["data", "check", "cifar-100-binary"]);
    assert!(error.contains("picture 0 has label 200"), "{error}");
}

#[test]
fn folders_of_pictures_with_and_without_parts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("flat"), &[("", 10)], 20);
    picture_folder(&path.join("parts"), &[("train", 6), ("val", 2)], 20);
    picture_folder(
        &path.join("three"),
        &[("train", 6), ("test", 2), ("valid", 3)],
        20,
    );
    pack(&path.join("parts"), &path.join("parts.tar.gz"));
    let counts = |data: &str| {
        let found = check(path, &[data]);
        assert_eq!(found["kind"], "folder");
        assert_eq!(found["classes"], serde_json::json!(CLASSES));
        assert_eq!(found["shape"]["height"], 20);
        (
            found["train"][0].as_u64().unwrap(),
            found["test"][2].as_u64().unwrap(),
        )
    };
    assert_eq!(counts("flat"), (8, 2));
    assert_eq!(counts("parts"), (6, 2));
    assert_eq!(counts("parts.tar.gz"), (6, 2));
    assert_eq!(counts("three"), (9, 2));
    assert_eq!(check(path, &["parts"]), check(path, &["parts.tar.gz"]));
    assert_eq!(check(path, &["flat", "--size", "32"])["shape"]["width"], 32);

    let text = succeed(
        path,
        &[
            "data",
            "show",
            "parts",
            "--columns",
            "4",
            "--out",
            "a/sheet.png",
        ],
    );
    assert!(text.contains("apples, berries, clouds"), "{text}");
    let sheet = image::open(path.join("a/sheet.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (4 * 22 + 2, 3 * 22 + 2));
}

#[test]
fn damaged_pictures_are_skipped_by_name_up_to_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let photos = path.join("photos");
    picture_folder(&photos, &[("train", 20), ("test", 4)], 12);
    let good = fs::read(photos.join("train/apples/000.png")).unwrap();
    fs::write(
        photos.join("train/berries/odd.png"),
        &good[..good.len() / 2],
    )
    .unwrap();
    let output = output(path, &["data", "check", "photos", "--json"]);
    let warning = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && warning.contains("berries/odd.png"),
        "{warning}"
    );
    assert!(warning.contains("1 of 73 pictures"), "{warning}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["train"], serde_json::json!([20, 20, 20]));

    fs::write(photos.join("train/berries/empty.jpg"), "").unwrap();
    let error = fail(path, &["train", "--data", "photos"]);
    assert!(
        error.contains("2 of 74") && error.contains("--max-corrupt"),
        "{error}"
    );
    let found = check(path, &["photos", "--max-corrupt", "0.05"]);
    assert_eq!(found["skipped"].as_array().unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_back_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("train", 4), ("test", 1)], 12);
    let link = path.join("photos/train/apples/up");
    std::os::unix::fs::symlink("..", &link).unwrap();
    for arguments in [
        &["data", "check", "photos"][..],
        &["train", "--data", "photos"],
        &["train", "--data", "cifar10", "--data-path", "photos"],
    ] {
        let error = fail(path, arguments);
        assert!(
            error.contains("apples/up: links to") && error.contains("remove the link"),
            "{error}"
        );
    }
    fs::remove_file(&link).unwrap();
    // A link to elsewhere is fine.
    fs::rename(path.join("photos/train/clouds"), path.join("clouds")).unwrap();
    std::os::unix::fs::symlink(path.join("clouds"), path.join("photos/train/clouds")).unwrap();
    let found = check(path, &["photos"]);
    assert_eq!(found["train"], serde_json::json!([4, 4, 4]));
}

#[test]
fn an_empty_class_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("flat"), &[("", 3)], 12);
    fs::create_dir(path.join("flat/dates")).unwrap();
    let error = fail(path, &["data", "check", "flat"]);
    assert!(error.contains("class 'dates' has no"), "{error}");

    picture_folder(&path.join("parts"), &[("train", 3), ("test", 1)], 12);
    fs::create_dir(path.join("parts/test/dates")).unwrap();
    let error = fail(path, &["data", "check", "parts"]);
    assert!(
        error.contains("class 'dates' has no test picture"),
        "{error}"
    );
    fs::create_dir(path.join("parts/train/dates")).unwrap();
    pack(&path.join("parts"), &path.join("parts.tgz"));
    let error = fail(path, &["data", "check", "parts.tgz"]);
    assert!(error.contains("class 'dates' has no"), "{error}");
}

#[test]
fn a_truncated_archive_is_no_smaller_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("train", 20), ("test", 4)], 24);
    pack(&path.join("photos"), &path.join("photos.tar.gz"));
    let whole = fs::read(path.join("photos.tar.gz")).unwrap();
    for share in [2, 3, 10] {
        let end = whole.len() - whole.len() / share;
        fs::write(path.join("cut.tar.gz"), &whole[..end]).unwrap();
        let error = fail(path, &["data", "check", "cut.tar.gz"]);
        assert!(error.contains("cut.tar.gz: damaged or cut off"), "{error}");
    }
    fs::write(path.join("text.tgz"), "this is text").unwrap();
    assert!(fail(path, &["data", "check", "text.tgz"]).contains("text.tgz"));
}

#[test]
fn idx_files_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let inside = path.join("mnist");
    fs::create_dir(&inside).unwrap();
    for (stem, count) in [("train", 30_u32), ("t10k", 10)] {
        let mut images = Vec::new();
        for word in [0x0803, count, 8, 8] {
            images.extend(word.to_be_bytes());
        }
        images.extend((0..count * 64).map(|value| (value % 251) as u8));
        fs::write(inside.join(format!("{stem}-images-idx3-ubyte")), images).unwrap();
        let mut labels = 0x0801_u32.to_be_bytes().to_vec();
        labels.extend(count.to_be_bytes());
        labels.extend((0..count).map(|i| (i % 5) as u8));
        let file = File::create(inside.join(format!("{stem}-labels-idx1-ubyte.gz"))).unwrap();
        let mut zipped = GzEncoder::new(file, Compression::fast());
        zipped.write_all(&labels).unwrap();
        zipped.finish().unwrap();
    }
    let found = check(path, &["mnist"]);
    assert_eq!(
        (&found["kind"], &found["train"]),
        (&"idx".into(), &serde_json::json!(vec![6; 5]))
    );
    assert_eq!(found["test"], serde_json::json!(vec![2; 5]));
    fs::remove_file(inside.join("t10k-labels-idx1-ubyte.gz")).unwrap();
    let error = fail(path, &["data", "check", "mnist"]);
    assert!(error.contains("t10k-labels-idx1-ubyte"), "{error}");
}

#[test]
fn imagenettes_classes_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let ids = [
        "n01440764",
        "n02102040",
        "n02979186",
        "n03000684",
        "n03028079",
        "n03394916",
        "n03417042",
        "n03425413",
        "n03445777",
        "n03888257",
    ];
    for (class, id) in ids.iter().enumerate() {
        for (part, count) in [("train", 3), ("val", 1)] {
            let inside = path.join("imagenette2-160").join(part).join(id);
            fs::create_dir_all(&inside).unwrap();
            for number in 0..count {
                let file = inside.join(format!("{id}_{number}.JPEG"));
                tinted(class, number, 40)
                    .save_with_format(file, image::ImageFormat::Jpeg)
                    .unwrap();
            }
        }
    }
    pack(&path.join("imagenette2-160"), &path.join("imagenette.tgz"));
    for data in ["imagenette2-160", ".", "imagenette.tgz"] {
        let found = check(path, &[data, "--size", "32"]);
        assert_eq!(found["kind"], "imagenette", "{data}");
        assert_eq!(found["classes"][3], "chain saw");
        assert_eq!(found["test"], serde_json::json!(vec![1; 10]));
    }
}
