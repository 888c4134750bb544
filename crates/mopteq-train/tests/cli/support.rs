//! Running the program, and making data for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::Value;

/// Longer than anything here takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A short training on the embedded digits.
pub const SHORT: [&str; 9] = [
    "train",
    "--device",
    "cpu",
    "--limit",
    "200",
    "--batch-size",
    "20",
    "--test-limit",
    "200",
];

pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mopteq"));
    command.current_dir(folder).stdin(Stdio::null());
    command.env("MOPTEQ_CACHE", folder.join("cache"));
    // As on a server: Mesa's driver complains about it unless the program prevents that.
    command.env_remove("XDG_RUNTIME_DIR");
    command
}

pub fn output(folder: &Path, arguments: &[&str]) -> Output {
    program(folder).args(arguments).output().unwrap()
}

/// Runs the program, which must succeed, and returns its standard output.
pub fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = output(folder, arguments);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must fail with one line on standard error, and returns the line.
pub fn fail(folder: &Path, arguments: &[&str]) -> String {
    failed(&output(folder, arguments), arguments)
}

/// The one error of a run that failed.
pub fn failed(output: &Output, arguments: &[&str]) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
    assert!(!error.contains("panic"), "{arguments:?}: {error}");
    let errors: Vec<&str> = error
        .lines()
        .filter(|line| !line.starts_with("warning: "))
        .collect();
    assert!(
        matches!(errors[..], [line] if line.starts_with("error: ")),
        "{arguments:?}: {error}"
    );
    errors[0].to_owned()
}

pub fn train(folder: &Path, arguments: &[&str]) -> String {
    succeed(folder, &[&SHORT[..], arguments].concat())
}

/// Starts a short training and lets it run.
pub fn start(folder: &Path, arguments: &[&str]) -> Child {
    let arguments = [&SHORT[..], arguments].concat();
    let quiet = program(folder)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn();
    quiet.unwrap()
}

/// Waits until something is there, while the process goes on.
pub fn wait_for(child: &mut Child, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < PATIENCE, "it never came");
        assert!(child.try_wait().unwrap().is_none(), "ended too early");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The summary without what depends on the clock.
pub fn summary(run: &Path) -> Value {
    let mut summary = read_json(&run.join("summary.json"));
    let fields = summary.as_object_mut().unwrap();
    fields.remove("training_seconds").unwrap();
    summary
}

/// The metrics of every epoch without what depends on the clock.
pub fn metrics(run: &Path) -> Value {
    let mut metrics = read_json(&run.join("metrics.json"));
    for epoch in metrics["epochs"].as_array_mut().unwrap() {
        epoch.as_object_mut().unwrap().remove("seconds").unwrap();
    }
    metrics
}

/// The parameters of the last checkpoint, byte for byte. The file format has no random numbers of
/// its own, unlike Burn's pack.
pub fn parameters(folder: &Path, run: &str) -> Vec<u8> {
    let file = format!("{run}.safetensors");
    succeed(folder, &["export", "--run", run, "--device", "cpu", &file]);
    fs::read(folder.join(file)).unwrap()
}

pub fn files(folder: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A white bar on black, roughly a one.
pub fn bar() -> GrayImage {
    GrayImage::from_fn(56, 56, |x, y| {
        Luma([if (26..31).contains(&x) && (10..46).contains(&y) {
            255
        } else {
            0
        }])
    })
}

/// Pictures of one colour with a pattern that differs from picture to picture.
pub fn tinted(class: usize, number: usize, side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        let noise = ((x * 7 + y * 13 + number as u32 * 31) % 61) as u8;
        let mut pixel = [noise; 3];
        pixel[class % 3] = 180 + noise;
        Rgb(pixel)
    })
}

/// What `data check` says.
pub fn check(folder: &Path, arguments: &[&str]) -> Value {
    let all = [&["data", "check", "--json"], arguments].concat();
    serde_json::from_str(&succeed(folder, &all)).unwrap()
}

/// A folder as a gzipped archive.
pub fn pack(folder: &Path, archive: &Path) {
    pack_files(folder, archive, true);
}

/// The same with the links as they are.
pub fn pack_with_links(folder: &Path, archive: &Path) {
    pack_files(folder, archive, false);
}

fn pack_files(folder: &Path, archive: &Path, follow: bool) {
    let file = fs::File::create(archive).unwrap();
    let mut builder = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    builder.follow_symlinks(follow);
    builder.append_dir_all("inside", folder).unwrap();
    builder.into_inner().unwrap().finish().unwrap();
}

pub const CLASSES: [&str; 3] = ["apples", "berries", "clouds"];

/// A folder of three classes with this many pictures each, below `parts` (such as `train`).
pub fn picture_folder(root: &Path, parts: &[(&str, usize)], side: u32) {
    for (part, count) in parts {
        for (class, name) in CLASSES.iter().enumerate() {
            let folder = root.join(part).join(name);
            fs::create_dir_all(&folder).unwrap();
            for number in 0..*count {
                let picture = tinted(class, number, side);
                picture
                    .save(folder.join(format!("{number:03}.png")))
                    .unwrap();
            }
        }
    }
}
