//! Whatever a folder of pictures is like, `data check` accounts for every picture in it, or says in
//! one line why it cannot be read.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::{DynamicImage, GrayImage, ImageFormat, Luma, RgbImage, RgbaImage};
use proptest::prelude::*;
use serde_json::Value;

use crate::support::*;

/// Names of folders, most of them unfortunate.
const FOLDERS: [&str; 38] = [
    "fold0",
    "flowers_train",
    "my test data",
    "CVS",
    "cats",
    "dogs",
    "birds",
    "a",
    "b",
    "train",
    "Test",
    "val",
    "valid",
    "training_set",
    "seg_test",
    "dev",
    "train station",
    "runs",
    "images",
    "with, comma",
    "with \"quotes\"",
    "new\nline",
    "caf\u{e9}",
    "cafe\u{301}",
    "\u{732b}",
    "-dash",
    "100%",
    " space ",
    "Cats",
    "@eaDir",
    "__MACOSX",
    ".hidden",
    "$RECYCLE.BIN",
    "Thumbs.db",
    "lost+found",
    "picture.png",
    "config.json",
    "{}",
];
const FILES: [&str; 20] = [
    "0.png",
    "1.PNG",
    "2.jpg",
    "3.JPEG",
    "4.gif",
    "5.bmp",
    "6.webp",
    "7.jfif",
    "without",
    "odd.data",
    "a\u{301}.png",
    "\u{e1}.png",
    "new\nline.png",
    "\"; drop.png",
    ".hidden.png",
    "._0.png",
    "scan.tif",
    "photo.heic",
    "Thumbs.db",
    "notes.txt",
];

#[derive(Clone, Debug)]
enum Content {
    /// A whole picture: format, kind of pixels, width, height.
    Picture(usize, usize, u32, u32),
    /// The first part of one, in percent.
    Cut(usize, usize),
    Text,
    Empty,
    /// A link to another path of the list, or out of the data, or to nowhere.
    Link(usize),
    Outside,
    Broken,
    /// The settings of a run beside it, whole runs, an inspection, and an exported model.
    Run,
    Checkpoints,
    Inspection,
    Model,
}

fn picture(format: usize, kind: usize, width: u32, height: u32) -> Vec<u8> {
    let grey = GrayImage::from_fn(width, height, |x, y| Luma([(x * 31 + y * 17) as u8]));
    let picture: DynamicImage = match kind {
        0 => grey.into(),
        1 => RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 9])).into(),
        _ => RgbaImage::from_pixel(width, height, image::Rgba([9, 200, 9, 100])).into(),
    };
    let (format, picture) = match format {
        0 => (ImageFormat::Png, picture),
        1 => (ImageFormat::Jpeg, picture.to_rgb8().into()),
        2 => (ImageFormat::Gif, picture.to_rgba8().into()),
        3 => (ImageFormat::Bmp, picture.to_rgb8().into()),
        _ => (ImageFormat::WebP, picture.to_rgba8().into()),
    };
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn content() -> impl Strategy<Value = Content> {
    let side = prop_oneof![Just(8_u32), Just(8), Just(1), Just(30), Just(300)];
    prop_oneof![
        20 => (0..5_usize, 0..3_usize, side.clone(), side)
            .prop_map(|(format, kind, w, h)| Content::Picture(format, kind, w, h)),
        2 => (0..5_usize, 0..99_usize).prop_map(|(format, share)| Content::Cut(format, share)),
        1 => Just(Content::Text),
        1 => Just(Content::Empty),
        1 => (0..40_usize).prop_map(Content::Link),
        1 => Just(Content::Outside),
        1 => Just(Content::Broken),
        1 => Just(Content::Run),
        1 => Just(Content::Checkpoints),
        1 => Just(Content::Inspection),
        1 => Just(Content::Model),
    ]
}

/// A file somewhere in the tree.
fn file() -> impl Strategy<Value = (PathBuf, Content)> {
    let folders = prop::collection::vec(prop::sample::select(&FOLDERS[..]), 0..4);
    // Whole trees of two classes, or unusual folders.
    let common = prop::sample::select(vec![
        vec!["cats"],
        vec!["dogs"],
        vec!["train", "cats"],
        vec!["train", "dogs"],
        vec!["test", "cats"],
        vec!["test", "dogs"],
    ]);
    let folders = prop_oneof![3 => common, 1 => folders];
    let name = prop_oneof![
        4 => (0..99_u32).prop_map(|number| OsString::from(format!("{number}.png"))),
        4 => prop::sample::select(&FILES[..]).prop_map(OsString::from),
        1 => Just(latin()),
    ];
    (folders, name, content()).prop_map(|(folders, name, content)| {
        let mut path: PathBuf = folders.iter().collect();
        path.push(name);
        (path, content)
    })
}

#[cfg(unix)]
fn latin() -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(b"caf\xe9.png".to_vec())
}

#[cfg(not(unix))]
fn latin() -> OsString {
    "latin.png".into()
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) {
    std::os::unix::fs::symlink(target, path).unwrap();
}

#[cfg(not(unix))]
fn link(_: &Path, path: &Path) {
    fs::write(path, "text").unwrap();
}

/// A sound data set, with parts or without, to which the rest is added; or none.
fn base() -> impl Strategy<Value = Vec<(PathBuf, Content)>> {
    let lay = |folders: &[&str]| -> Vec<(PathBuf, Content)> {
        let files = |folder: &&str| {
            let folder = Path::new(*folder).to_path_buf();
            (100..104).map(move |i| folder.join(format!("{i}.png")))
        };
        let paths = folders.iter().flat_map(files);
        paths
            .map(|path| (path, Content::Picture(0, 1, 8, 8)))
            .collect()
    };
    prop::sample::select(vec![
        lay(&[]),
        lay(&["cats", "dogs"]),
        lay(&["train/cats", "train/dogs"]),
        lay(&["train/cats", "train/dogs", "test/cats", "test/dogs"]),
    ])
}

/// Makes the tree; files that cannot be where they are wanted are left out.
fn make(root: &Path, files: &[(PathBuf, Content)]) -> bool {
    let mut links = false;
    for (path, content) in files {
        let path = root.join(path);
        let folder = path.parent().unwrap();
        if fs::create_dir_all(folder).is_err() || path.symlink_metadata().is_ok() {
            continue;
        }
        match content {
            Content::Picture(format, kind, width, height) => {
                fs::write(&path, picture(*format, *kind, *width, *height)).unwrap();
            }
            Content::Cut(format, share) => {
                let whole = picture(*format, 1, 30, 30);
                fs::write(&path, &whole[..whole.len() * share / 100]).unwrap();
            }
            Content::Text => fs::write(&path, "this is text").unwrap(),
            Content::Empty => fs::write(&path, "").unwrap(),
            Content::Link(other) => {
                link(&root.join(&files[other % files.len()].0), &path);
                links = true;
            }
            Content::Outside => {
                let outside = root.with_file_name("outside.png");
                fs::write(&outside, picture(0, 1, 8, 8)).unwrap();
                link(&outside, &path);
                links = true;
            }
            Content::Broken => {
                link(Path::new("nowhere"), &path);
                links = true;
            }
            Content::Run if folder != root => {
                let _ = fs::write(folder.join("config.json"), CONFIG);
            }
            Content::Checkpoints if folder != root => {
                let _ = fs::write(folder.join("config.json"), CONFIG);
                let _ = fs::create_dir(folder.join("checkpoint"));
                let _ = fs::write(folder.join("checkpoint/model.bpk"), "model");
            }
            Content::Inspection => {
                let _ = fs::write(folder.join("inspection.json"), INSPECTION);
                if !folder.join("branches.png").exists() {
                    fs::write(folder.join("branches.png"), picture(0, 1, 8, 8)).unwrap();
                }
            }
            Content::Model => fs::write(folder.join("m.safetensors"), "model").unwrap(),
            Content::Run | Content::Checkpoints => {}
        }
    }
    links
}

const CONFIG: &str = r#"{"format": 2, "data": 0, "classes": 0, "normalisation": 0, "model": 0}"#;
const INSPECTION: &str = r#"{"prediction": 0, "solver_residuals": 0, "branches": 0}"#;
const READ: [&str; 10] = [
    ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".jfif", ".tif", ".heic", ".apng",
];
const LITTER: [&str; 6] = [
    "CVS",
    "@eaDir",
    "__MACOSX",
    "$RECYCLE.BIN",
    "Thumbs.db",
    "lost+found",
];

/// Every picture below a folder that nobody set aside, by its name or by its content.
fn pictures(root: &Path, folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            let run = path.join("checkpoint").is_dir() && path.join("config.json").is_file();
            if !LITTER.contains(&&*name) && !run {
                pictures(root, &path, into);
            }
            continue;
        }
        if name == "branches.png" && folder.join("inspection.json").is_file() {
            continue;
        }
        let named = READ
            .iter()
            .any(|ending| name.to_lowercase().ends_with(ending));
        // The link may have been a class.
        let broken = path.is_symlink() && fs::metadata(&path).is_err();
        let start = fs::read(&path).unwrap_or_default();
        let formats = [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::Gif,
            ImageFormat::WebP,
        ];
        let is = image::guess_format(&start).is_ok_and(|format| formats.contains(&format));
        if named || is || broken {
            into.insert(path.strip_prefix(root).unwrap().to_path_buf());
        }
    }
}

/// The one line of a check that failed, or its answer.
fn checked(folder: &Path, data: &str) -> Result<Value, String> {
    let arguments = ["data", "check", data, "--json", "--max-corrupt", "1"];
    let output = output(folder, &arguments);
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    let error = failed(&output, &arguments);
    assert!(!error.contains("internal error"), "{error}");
    Err(error)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_picture_is_accounted_for(base in base(), more in prop::collection::vec(file(), 1..30)) {
        let files = [base, more].concat();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        fs::create_dir(&root).unwrap();
        let links = make(&root, &files);
        let mut all = BTreeSet::new();
        let answer = checked(folder.path(), "data");
        if let Ok(found) = &answer {
            pictures(&root, &root, &mut all);
            let sum = |part: &str| -> u64 {
                found[part].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum()
            };
            let skipped = found["skipped"].as_array().unwrap();
            let counted = sum("train") + sum("test") + skipped.len() as u64;
            prop_assert_eq!(counted, all.len() as u64, "{} {:?}", found, all);
            // Each that is left out is there, and has a reason.
            for line in skipped {
                let line = line.as_str().unwrap();
                let is_it = |path: &&PathBuf| {
                    line.split_once(&*path.to_string_lossy()).is_some_and(|(_, reason)| reason.len() > 5)
                };
                prop_assert!(all.iter().any(|path| is_it(&path)), "{}", line);
            }
            // A class is a folder, and never one that a system left.
            for class in found["classes"].as_array().unwrap() {
                let class = class.as_str().unwrap();
                prop_assert!(!LITTER.contains(&class) && !class.starts_with('.'), "{}", class);
            }
        }
        if !links {
            pack(&root, &folder.path().join("data.tar.gz"));
            match (answer, checked(folder.path(), "data.tar.gz")) {
                (Ok(one), Ok(other)) => {
                    for part in ["classes", "shape", "train", "test"] {
                        prop_assert_eq!(&one[part], &other[part]);
                    }
                    let count = |answer: &Value| answer["skipped"].as_array().unwrap().len();
                    prop_assert_eq!(count(&one), count(&other), "{} {}", one, other);
                }
                (Err(_), Err(_)) => {}
                (one, other) => prop_assert!(false, "{:?} {:?}", one, other),
            }
        }
    }
}
