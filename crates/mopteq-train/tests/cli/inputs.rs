//! Pictures as the world has them: mixed, turned, cut off, with names of every kind.

use std::fs::{self, File};
use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use serde_json::json;

use crate::support::*;

fn encoded(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A tar archive of files in this order.
fn archive(path: &Path, files: &[(&[u8], Vec<u8>)]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, content.as_slice()).unwrap();
    }
    builder.finish().unwrap();
}

#[test]
fn all_pictures_decide_colour_and_size_and_not_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let grey = |side: u32, i: u32| {
        encoded(
            GrayImage::from_pixel(side, side, Luma([i as u8])),
            ImageFormat::Png,
        )
    };
    // More than are decoded together.
    let mut files: Vec<(String, Vec<u8>)> = (0..1030)
        .map(|i| (format!("bw/{i:04}.png"), grey(8, i)))
        .collect();
    for i in 0..10 {
        let colour = encoded(tinted(1, i, 8), ImageFormat::Png);
        files.push((format!("red/{i:04}.png"), colour));
    }
    let check_both = |files: &[(String, Vec<u8>)]| {
        let pairs: Vec<(&[u8], Vec<u8>)> = files
            .iter()
            .map(|(name, content)| (name.as_bytes(), content.clone()))
            .collect();
        archive(&path.join("data.tar"), &pairs);
        let data = path.join("data");
        for (name, content) in files {
            fs::create_dir_all(data.join(name).parent().unwrap()).unwrap();
            fs::write(data.join(name), content).unwrap();
        }
        let shapes = ["data.tar", "data"].map(|data| check(path, &[data])["shape"].clone());
        assert_eq!(shapes[0], shapes[1]);
        shapes[0].clone()
    };
    let shape = check_both(&files);
    assert_eq!(shape, json!({"channels": 3, "height": 8, "width": 8}));
    files.push(("red/last.png".into(), grey(12, 0)));
    let shape = check_both(&files);
    assert_eq!(shape, json!({"channels": 3, "height": 64, "width": 64}));
}

/// A JPEG with an orientation tag.
fn turned(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    tag.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    let length = (tag.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &tag, &jpeg[2..]].concat()
}

#[test]
fn the_size_is_that_of_the_picture_as_it_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (class, name) in ["a", "b"].iter().enumerate() {
        for data in ["upright", "lying", "mixed"] {
            fs::create_dir_all(path.join(data).join(name)).unwrap();
        }
        for i in 0..6 {
            let picture = image::imageops::crop_imm(&tinted(class, i, 32), 0, 0, 24, 32).to_image();
            let lying = image::imageops::rotate270(&picture);
            let upright = encoded(picture, ImageFormat::Jpeg);
            let lying = turned(&encoded(lying, ImageFormat::Jpeg), 6);
            let file = format!("{name}/{i}.jpg");
            fs::write(path.join("upright").join(&file), &upright).unwrap();
            fs::write(path.join("lying").join(&file), &lying).unwrap();
            let mixed = if i % 2 == 0 { upright } else { lying };
            fs::write(path.join("mixed").join(&file), mixed).unwrap();
        }
    }
    for data in ["upright", "lying", "mixed"] {
        let shape = check(path, &[data])["shape"].clone();
        assert_eq!(
            shape,
            json!({"channels": 3, "height": 32, "width": 24}),
            "{data}"
        );
    }
}

#[test]
fn a_jpeg_that_is_cut_in_half_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for name in ["a", "b"] {
        fs::create_dir_all(path.join("data").join(name)).unwrap();
        for i in 0..6 {
            let whole = encoded(tinted(0, i, 40), ImageFormat::Jpeg);
            fs::write(path.join(format!("data/{name}/{i}.jpg")), &whole).unwrap();
            if i < 2 {
                let half = &whole[..whole.len() / 2];
                fs::write(path.join(format!("data/{name}/half-{i}.jpg")), half).unwrap();
            }
        }
    }
    let error = fail(path, &["data", "check", "data"]);
    assert!(
        error.contains("4 of 16") && error.contains("cut off"),
        "{error}"
    );
    let found = check(path, &["data", "--max-corrupt", "0.5"]);
    assert_eq!(found["train"], json!([5, 5]));
    assert_eq!(found["skipped"].as_array().unwrap().len(), 4);
}

#[cfg(unix)]
#[test]
fn names_in_other_encodings_and_forms_lose_nothing() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let latin = OsStr::from_bytes(b"caf\xe9");
    let picture = |class: usize, i: usize| encoded(tinted(class, i, 16), ImageFormat::Png);
    let mut packed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (part, count) in [("train", 4), ("test", 2)] {
        for (class, name) in [latin, OsStr::new("tea")].into_iter().enumerate() {
            let inside = path.join("latin").join(part).join(name);
            fs::create_dir_all(&inside).unwrap();
            for i in 0..count {
                let bytes = picture(class, i);
                fs::write(inside.join(format!("{i}.png")), &bytes).unwrap();
                let file = format!("/{i}.png");
                let member = [part.as_bytes(), b"/", name.as_bytes(), file.as_bytes()];
                packed.push((member.concat(), bytes));
            }
        }
    }
    let packed: Vec<(&[u8], Vec<u8>)> = packed.iter().map(|(n, c)| (&n[..], c.clone())).collect();
    archive(&path.join("latin.tar"), &packed);
    for data in ["latin", "latin.tar"] {
        let found = check(path, &[data]);
        assert_eq!(found["classes"], json!(["caf\u{fffd}", "tea"]), "{data}");
        assert_eq!(
            (&found["train"], &found["test"]),
            (&json!([4, 4]), &json!([2, 2]))
        );
    }
    // Two that only look alike are not made one.
    fs::create_dir_all(path.join("latin/train").join(OsStr::from_bytes(b"caf\xe8"))).unwrap();
    let other = path
        .join("latin/train")
        .join(OsStr::from_bytes(b"caf\xe8"))
        .join("9.png");
    fs::write(other, picture(0, 9)).unwrap();
    let error = fail(path, &["data", "check", "latin"]);
    assert!(
        error.contains("no UTF-8") && error.contains("rename"),
        "{error}"
    );

    // Composed here, decomposed there.
    for (part, name, count) in [("train", "caf\u{e9}", 4), ("test", "cafe\u{301}", 2)] {
        for (class, name) in [name, "tea"].into_iter().enumerate() {
            let inside = path.join("forms").join(part).join(name);
            fs::create_dir_all(&inside).unwrap();
            for i in 0..count {
                fs::write(inside.join(format!("{i}.png")), picture(class, i)).unwrap();
            }
        }
    }
    let found = check(path, &["forms"]);
    assert_eq!(found["classes"], json!(["caf\u{e9}", "tea"]));
    assert_eq!(
        (&found["train"], &found["test"]),
        (&json!([4, 4]), &json!([2, 2]))
    );

    // A path that config.json cannot hold is refused before anything is trained.
    fs::rename(
        path.join("forms"),
        path.join(OsStr::from_bytes(b"form\xe9")),
    )
    .unwrap();
    let mut command = program(&path.join(OsStr::from_bytes(b"form\xe9")));
    command.args(["train", "--data", "."]);
    let error = failed(&command.output().unwrap(), &["train"]);
    assert!(
        error.contains("no UTF-8") && !path.join("runs").exists(),
        "{error}"
    );
}

/// An IDX file of pictures or of labels.
fn idx(sizes: &[u32], values: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(values);
    bytes
}

fn idx_files(folder: &Path, labels: [&[u8]; 2]) {
    fs::create_dir_all(folder).unwrap();
    for (stem, labels) in ["train", "t10k"].into_iter().zip(labels) {
        let count = labels.len() as u32;
        let pixels = (0..count * 64).map(|i| (i % 251) as u8);
        let images = idx(&[count, 8, 8], pixels);
        fs::write(folder.join(format!("{stem}-images-idx3-ubyte")), images).unwrap();
        let labels = idx(&[count], labels.iter().copied());
        fs::write(folder.join(format!("{stem}-labels-idx1-ubyte")), labels).unwrap();
    }
}

#[test]
fn idx_labels_need_not_start_at_0() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let all = [1, 2, 3, 7].repeat(5);
    idx_files(&path.join("data"), [&all, &[7, 1, 1]]);
    let found = check(path, &["data"]);
    assert_eq!(found["classes"], json!(["1", "2", "3", "7"]));
    assert_eq!(
        (&found["train"], &found["test"]),
        (&json!([5, 5, 5, 5]), &json!([2, 0, 0, 1]))
    );
    idx_files(&path.join("data"), [&all, &[7, 5]]);
    let error = fail(path, &["data", "check", "data"]);
    assert!(
        error.contains("class '5' has no training picture"),
        "{error}"
    );
    idx_files(&path.join("data"), [&[4, 4], &[4]]);
    assert!(fail(path, &["data", "check", "data"]).contains("labels are the same"));
}

#[test]
fn other_versions_of_cifar_are_named_with_what_to_get() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, files) in [
        (
            "cifar10",
            &["data_batch_1", "data_batch_2", "test_batch", "batches.meta"][..],
        ),
        ("cifar100", &["train", "test", "meta"]),
        ("cifar10", &["data_batch_1.mat", "test_batch.mat"]),
    ] {
        let _ = fs::remove_dir_all(path.join("data"));
        let inside = path.join("data/cifar-py");
        fs::create_dir_all(&inside).unwrap();
        for file in files {
            fs::write(inside.join(file), "pickle").unwrap();
        }
        pack(&path.join("data"), &path.join("cifar-python.tar.gz"));
        for data in ["data", "data/cifar-py", "cifar-python.tar.gz"] {
            let error = fail(path, &["data", "check", data]);
            let remedy = format!("mopteq data get {name}");
            assert!(
                error.contains("version") && error.contains(&remedy),
                "{error}"
            );
            let error = fail(path, &["train", "--data", name, "--data-path", data]);
            assert!(error.contains(&remedy), "{error}");
        }
    }
}
