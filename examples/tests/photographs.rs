//! Runs the examples on photographs for a few batches of pictures in the official layouts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A picture of a class: noise with a bright stripe.
fn picture(class: usize, number: usize, side: usize) -> Vec<u8> {
    let value = |i: usize| {
        let noise = (i + 31 * number + 1).wrapping_mul(2_654_435_761) >> 7;
        let stripe = if i / side % 10 == class % 10 { 120 } else { 0 };
        (noise % 100 + stripe) as u8
    };
    (0..3 * side * side).map(value).collect()
}

/// Records of labels and pictures of 32 x 32 pixels.
fn records(count: usize, label: impl Fn(usize) -> Vec<u8>) -> Vec<u8> {
    let record = |i: usize| [label(i), picture(i % 10, i, 32)].concat();
    (0..count).flat_map(record).collect()
}

/// Runs an example, which cargo has built next to the tests.
fn run(example: &str, data: &Path) -> String {
    let mut programs: PathBuf = std::env::current_exe().unwrap();
    programs.pop();
    programs.pop();
    let program = programs.join("examples").join(example);
    let mut command = Command::new(program);
    command.arg("--data").arg(data);
    command.args(["--device", "cpu", "--epochs", "2", "--limit", "40"]);
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn check(example: &str, data: &Path) {
    let said = run(example, data);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    for (i, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("epoch {}", i + 1)), "{line}");
        assert!(line.contains("test accuracy"), "{line}");
        assert!(!line.contains("NaN"), "{line}");
    }
}

#[test]
fn photographs_of_cifar_10() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("cifar-10-batches-bin");
    fs::create_dir_all(&inside).unwrap();
    let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
    fs::write(inside.join("batches.meta.txt"), names.join("\n")).unwrap();
    for i in 1..=5 {
        let file = inside.join(format!("data_batch_{i}.bin"));
        fs::write(file, records(10, |i| vec![(i % 10) as u8])).unwrap();
    }
    let test = records(20, |i| vec![(i % 10) as u8]);
    fs::write(inside.join("test_batch.bin"), test).unwrap();
    check("cifar10", folder.path());
}

#[test]
fn photographs_of_cifar_100() {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("cifar-100-binary");
    fs::create_dir_all(&inside).unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("class {i}")).collect();
    fs::write(inside.join("fine_label_names.txt"), names.join("\n")).unwrap();
    fs::write(inside.join("coarse_label_names.txt"), "coarse\n".repeat(20)).unwrap();
    let labels = |i: usize| vec![(i % 20) as u8, (i % 100) as u8];
    for (file, count) in [("train.bin", 200), ("test.bin", 100)] {
        fs::write(inside.join(file), records(count, labels)).unwrap();
    }
    check("cifar100", folder.path());
}

#[test]
fn photographs_of_imagenette() {
    let folder = tempfile::tempdir().unwrap();
    let classes = [
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
    for (class, id) in classes.into_iter().enumerate() {
        for (part, count) in [("train", 4), ("val", 2)] {
            let inside = folder.path().join("imagenette2-160").join(part).join(id);
            fs::create_dir_all(&inside).unwrap();
            for number in 0..count {
                let pixels = picture(class, number, 160);
                let picture = image::RgbImage::from_raw(160, 160, pixels).unwrap();
                let file = inside.join(format!("{id}_{number}.JPEG"));
                picture.save(file).unwrap();
            }
        }
    }
    check("imagenette", folder.path());
}

#[test]
fn photographs_that_are_not_there() {
    let program = |name: &str| {
        let mut programs = std::env::current_exe().unwrap();
        programs.pop();
        programs.pop();
        Command::new(programs.join("examples").join(name))
    };
    for (arguments, said) in [
        (vec!["--data", "/nowhere"], "/nowhere"),
        (vec!["--epochs", "0"], "--epochs"),
        (vec!["--device", "abacus"], "abacus"),
        (vec!["--speed", "9"], "--speed"),
    ] {
        let output = program("cifar10").args(arguments).output().unwrap();
        assert!(!output.status.success());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}
