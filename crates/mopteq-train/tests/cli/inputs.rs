//! Pictures as they occur in practice: mixed, turned, cut off, with names of every kind.

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
            let whole = encoded(tinted(0, i, 100), ImageFormat::Jpeg);
            fs::write(path.join(format!("data/{name}/{i}.jpg")), &whole).unwrap();
            // Cut off; with an end that somebody put there; with a hole.
            let middle = whole.len() * 3 / 4;
            let half = &whole[..middle];
            let mut hole = whole.clone();
            hole[middle..middle + whole.len() / 10].fill(0);
            for (kind, bytes) in [half.to_vec(), [half, &[0xff, 0xd9]].concat(), hole]
                .into_iter()
                .enumerate()
                .filter(|_| i < 2)
            {
                fs::write(path.join(format!("data/{name}/{i}-{kind}.jpg")), bytes).unwrap();
            }
        }
    }
    let error = fail(path, &["data", "check", "data"]);
    assert!(
        error.contains("12 of 24") && error.contains("cut off"),
        "{error}"
    );
    let found = check(path, &["data", "--max-corrupt", "0.5"]);
    assert_eq!(found["train"], json!([5, 5]));
    assert_eq!(found["skipped"].as_array().unwrap().len(), 12);
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
    // Two that only look alike are not merged.
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
fn idx_files_have_many_names_and_need_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let labels = [0, 1].repeat(5);
    idx_files(&path.join("plain"), [&labels, &[0, 1]]);
    let expected = check(path, &["plain"]);
    // As EMNIST names its files.
    let data = path.join("emnist");
    fs::create_dir(&data).unwrap();
    let copy = |before: &str| {
        for (from, to) in [("train", "train"), ("t10k", "test")] {
            for kind in ["images-idx3-ubyte", "labels-idx1-ubyte"] {
                let from = path.join(format!("plain/{from}-{kind}"));
                fs::copy(from, data.join(format!("{before}{to}-{kind}"))).unwrap();
            }
        }
    };
    copy("emnist-letters-");
    pack(&data, &path.join("emnist.tar.gz"));
    for data in ["emnist", "emnist.tar.gz"] {
        let found = check(path, &[data]);
        assert_eq!(
            (&found["kind"], &found["train"]),
            (&json!("idx"), &expected["train"])
        );
    }
    copy("emnist-digits-");
    let error = fail(path, &["data", "check", "emnist"]);
    assert!(
        error.contains("several data sets") && error.contains("emnist-digits-"),
        "{error}"
    );
    assert!(error.contains("folder of their own"), "{error}");
    // Two data sets in two folders are two.
    idx_files(&path.join("both/a"), [&labels, &[0, 1]]);
    assert_eq!(check(path, &["both"])["kind"], "idx");
    idx_files(&path.join("both/b"), [&labels, &[0, 1]]);
    let error = fail(path, &["data", "check", "both"]);
    assert!(
        error.contains("a/train-images") && error.contains("b/train-images"),
        "{error}"
    );
    // A part without pictures.
    idx_files(&path.join("plain"), [&labels, &[]]);
    let error = fail(path, &["data", "check", "plain"]);
    assert!(
        error.contains("t10k-images-idx3-ubyte: the file contains no pictures"),
        "{error}"
    );
}

#[test]
fn archives_without_classes_are_told_what_they_lack() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("docs")).unwrap();
    fs::write(path.join("docs/readme"), "text").unwrap();
    pack(&path.join("docs"), &path.join("docs.tar.gz"));
    fs::write(path.join("empty.tar"), "").unwrap();
    fs::write(path.join("zeros.tar"), [0; 1024]).unwrap();
    let bytes = encoded(tinted(0, 0, 8), ImageFormat::Png);
    archive(
        &path.join("flat.tar"),
        &[(b"0.png", bytes.clone()), (b"1.png", bytes)],
    );
    for data in ["docs.tar.gz", "empty.tar", "zeros.tar", "flat.tar"] {
        let error = fail(path, &["data", "check", data]);
        assert!(
            error.contains("there is no picture in a folder with the name"),
            "{error}"
        );
        assert!(!error.contains("data_batch"), "{error}");
    }
    assert!(fail(path, &["data", "check", "flat.tar"]).contains("2 were skipped"));
    for (name, text) in [
        ("short.tar", "this is text"),
        ("long.tar", &*"text ".repeat(400)),
    ] {
        fs::write(path.join(name), text).unwrap();
        let error = fail(path, &["data", "check", name]);
        assert!(
            error.contains("or no archive") && error.contains(name),
            "{error}"
        );
    }
}

#[test]
fn a_way_up_in_an_archive_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut files: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for (class, name) in ["a/../b", "./a", "/c", "../../d", "a/x/../../e"]
        .iter()
        .enumerate()
    {
        for i in 0..5 {
            let bytes = encoded(tinted(class, i, 8), ImageFormat::Png);
            files.push((format!("{name}/{i}.png").into_bytes(), bytes));
        }
    }
    let files: Vec<(&[u8], Vec<u8>)> = files.iter().map(|(n, c)| (&n[..], c.clone())).collect();
    archive(&path.join("data.tar"), &files);
    let found = check(path, &["data.tar"]);
    assert_eq!(found["classes"], json!(["a", "b", "c", "d", "e"]));
}

#[cfg(unix)]
#[test]
fn names_that_only_read_the_same_do_not_depend_on_each_other() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let inside = path.join("data/a");
    fs::create_dir_all(path.join("data/b")).unwrap();
    fs::create_dir_all(&inside).unwrap();
    let name = |byte: u8| inside.join(OsStr::from_bytes(&[b'x', byte, b'.', b'p', b'n', b'g']));
    for number in 0..10_u8 {
        let picture = encoded(tinted(0, number.into(), 16), ImageFormat::Png);
        fs::write(name(0xe0 + number), picture).unwrap();
        let picture = tinted(1, number.into(), 16);
        picture
            .save(path.join(format!("data/b/{number}.png")))
            .unwrap();
    }
    let small = [
        "--set",
        "model.core.channels=4",
        "--set",
        "model.core.hidden=4",
    ];
    let run = [
        "train", "--data", "data", "--epochs", "1", "--device", "cpu",
    ];
    let list = |out: &str| {
        succeed(path, &[&run[..], &small, &["--out", out]].concat());
        let list = read_json(&path.join(out).join("data-files.json"));
        let parts = ["train", "valid", "test"].map(|part| list[part].clone());
        let named = |part: serde_json::Value| -> Vec<(String, String)> {
            let files = part.as_array().unwrap().iter();
            let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
            files.map(|file| (text(&file[0]), text(&file[1]))).collect()
        };
        parts.map(named).concat()
    };
    let before = list("before");
    fs::remove_file(name(0xe0)).unwrap();
    let after = list("after");
    assert_eq!((before.len(), after.len()), (20, 19));
    assert!(
        after.iter().all(|file| before.contains(file)),
        "{before:?} {after:?}"
    );
}

#[test]
fn names_keep_to_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (class, name) in ["new\nline", "plain", "bell\u{7}"].iter().enumerate() {
        fs::create_dir_all(path.join("data").join(name)).unwrap();
        for i in 0..5 {
            let file = path.join("data").join(name).join(format!("{i}\n.png"));
            tinted(class, i, 16).save(file).unwrap();
        }
    }
    let small = [
        "--set",
        "model.core.channels=4",
        "--set",
        "model.core.hidden=4",
    ];
    let run = [
        "train", "--data", "data", "--epochs", "1", "--device", "cpu", "--out", "a\nb",
    ];
    succeed(path, &[&run[..], &small].concat());
    let on = ["--run", "a\nb", "--device", "cpu"];
    for command in [
        &["data", "check", "data"][..],
        &["data", "show", "data"],
        &["runs", "a\nb"],
        &[&["eval"], &on[..]].concat(),
        &[&["predict", "data"], &on[..]].concat(),
    ] {
        let text = succeed(path, command);
        let broken = |line: &str| line.starts_with(".png") || line.starts_with("line");
        assert!(
            !text.lines().any(broken) && !text.contains('\u{7}'),
            "{text}"
        );
        assert!(text.contains("\\n"), "{text}");
    }
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
