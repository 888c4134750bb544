//! `predict` on whatever is there, and `eval` on other data.

use std::fs;

use serde_json::{Value, json};

use crate::support::*;

const IGNORED: &str = "warning: 1 picture is ignored (hidden, or in folders of the system or of this program): \
                       photos/@eaDir (1)\n";
const RUN: [&str; 4] = ["--run", "run", "--device", "cpu"];

#[test]
fn one_bad_picture_costs_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    let photos = path.join("photos");
    fs::create_dir_all(photos.join("b/deeper")).unwrap();
    fs::create_dir_all(photos.join("a")).unwrap();
    fs::create_dir_all(photos.join("@eaDir")).unwrap();
    for name in ["b/deeper/1.png", "b/0.png", "a/2.png", "@eaDir/9.png"] {
        bar().save(photos.join(name)).unwrap();
    }
    let answered = |arguments: &[&str]| {
        let output = output(
            path,
            &[&["predict", "--json"], &RUN[..], arguments].concat(),
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let files = text.lines().map(|line| {
            let answer: Value = serde_json::from_str(line).unwrap();
            answer["file"].as_str().unwrap().to_owned()
        });
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (files.collect::<Vec<_>>(), output.status.code(), error)
    };
    // Folders of class folders, in order.
    let all = ["photos/a/2.png", "photos/b/0.png", "photos/b/deeper/1.png"];
    assert_eq!(
        answered(&["photos"]),
        (all.map(str::to_owned).to_vec(), Some(0), IGNORED.into())
    );
    // A file that is not a picture is reported; one that should be a picture is counted.
    fs::write(photos.join("notes.txt"), "text").unwrap();
    let (files, code, error) = answered(&["photos"]);
    assert_eq!((files.len(), code), (3, Some(0)));
    assert!(error.contains("notes.txt: not a picture"), "{error}");
    fs::write(photos.join("b/bad.jpg"), "text").unwrap();
    for arguments in [
        &["photos"][..],
        &[
            "photos/a/2.png",
            "photos/b/bad.jpg",
            "photos/b/0.png",
            "photos/b/deeper/1.png",
        ],
        &[
            "missing.png",
            "photos/b/0.png",
            "photos/a",
            "photos/b/deeper",
        ],
    ] {
        let (files, code, error) = answered(arguments);
        assert_eq!((files.len(), code), (3, Some(1)), "{error}");
        let last = error.lines().last().unwrap();
        assert!(
            last.starts_with("error: 1 of 4 pictures could not be read"),
            "{error}"
        );
    }
    let (files, code, error) = answered(&["photos/b/bad.jpg", "missing.png"]);
    assert_eq!((files.len(), code), (0, Some(1)));
    assert!(error.contains("error: 2 of 2 pictures"), "{error}");
    assert!(error.contains("missing.png: cannot be read"), "{error}");
}

#[cfg(unix)]
#[test]
fn links_that_lead_nowhere_or_back_cost_no_answer() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    let photos = path.join("photos");
    fs::create_dir_all(photos.join("a")).unwrap();
    for name in ["0.png", "a/1.png"] {
        bar().save(photos.join(name)).unwrap();
    }
    for (target, link) in [
        ("nowhere", "broken"),
        ("nowhere.png", "broken.png"),
        ("itself", "itself"),
        (".", "loop"),
        ("..", "a/up"),
    ] {
        symlink(target, photos.join(link)).unwrap();
    }
    let output = output(path, &[&["predict", "photos"], &RUN[..]].concat());
    let (answers, told) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    let answers = String::from_utf8(answers).unwrap();
    assert!(
        answers.contains("0.png") && answers.contains("a/1.png"),
        "{answers}"
    );
    for name in ["broken:", "broken.png:", "itself:", "loop:", "a/up:"] {
        assert!(told.contains(&format!("photos/{name}")), "{name} {told}");
    }
    assert!(
        told.contains("error: 5 of 7 pictures could not be read"),
        "{told}"
    );
}

#[test]
fn what_is_no_picture_says_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    fs::create_dir(path.join("photos")).unwrap();
    fs::write(path.join("photos/x.heic"), "unread").unwrap();
    let inspect = |picture: &str| fail(path, &[&["inspect", picture], &RUN[..]].concat());
    let convert = ".heic files are not read; convert it to PNG or JPEG";
    for error in [
        fail(path, &[&["predict", "photos/x.heic"], &RUN[..]].concat()),
        fail(path, &[&["predict", "photos"], &RUN[..]].concat()),
        inspect("photos/x.heic"),
    ] {
        assert!(
            error.contains("x.heic: ") && error.contains(convert),
            "{error}"
        );
    }
    assert!(inspect("photos").contains("photos: not a picture that can be read (it is a folder"));
    // By its content it is a picture.
    bar().save(path.join("one.png")).unwrap();
    fs::rename(path.join("one.png"), path.join("one.heic")).unwrap();
    succeed(path, &[&["predict", "one.heic"], &RUN[..]].concat());
}

#[cfg(unix)]
#[test]
fn names_that_are_no_utf8_are_answered_for() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    train(path, &["--epochs", "1", "--out", "run"]);
    let photos = path.join("photos");
    fs::create_dir(&photos).unwrap();
    for name in [&b"caf\xe9.png"[..], b"ok.png"] {
        let file = photos.join(OsStr::from_bytes(name));
        bar()
            .save_with_format(file, image::ImageFormat::Png)
            .unwrap();
    }
    let predict = |form: &[&str]| succeed(path, &[&["predict", "photos"], &RUN[..], form].concat());
    for form in [&["--json"][..], &["--csv"], &[]] {
        let text = predict(form);
        assert!(
            text.contains("caf\u{fffd}.png") && text.contains("ok.png"),
            "{text}"
        );
    }
    // The same for the run's own folder.
    let mut command = program(path);
    command
        .args(SHORT)
        .args(["--epochs", "1", "--json", "--out"]);
    let output = command
        .arg(OsStr::from_bytes(b"r\xe9sum\xe9"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

#[test]
fn answers_come_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let classes = ["plain", "with, comma", "with \"quotes\""];
    for (class, name) in classes.iter().enumerate() {
        fs::create_dir_all(path.join("photos").join(name)).unwrap();
        for number in 0..5 {
            let file = path.join("photos").join(name).join(format!("{number}.png"));
            tinted(class, number, 16).save(file).unwrap();
        }
    }
    let small = [
        "--set",
        "model.core.channels=4",
        "--set",
        "model.core.hidden=4",
    ];
    let options = ["train", "--data", "photos", "--epochs", "1", "--out", "run"];
    succeed(path, &[&options[..], &small, &["--device", "cpu"]].concat());
    fs::create_dir(path.join("new")).unwrap();
    tinted(0, 9, 16)
        .save(path.join("new/a,\"b\"\n.png"))
        .unwrap();
    tinted(0, 9, 16).save(path.join("new/c.png")).unwrap();
    let predict = |more: &[&str]| {
        succeed(
            path,
            &[&["predict", "--csv", "new"], &RUN[..], more].concat(),
        )
    };
    let text = predict(&["--top", "9"]);
    let header = "file,class,probability,class2,probability2,class3,probability3\n";
    assert!(text.starts_with(header), "{text}");
    assert!(text.contains("\n\"new/a,\"\"b\"\"\n.png\","), "{text}");
    for quoted in [
        "\"with, comma\",0.",
        "\"with \"\"quotes\"\"\",0.",
        ",plain,0.",
    ] {
        assert_eq!(text.matches(quoted).count(), 2, "{quoted}: {text}");
    }
    let text = predict(&["--top", "1"]);
    assert!(
        text.starts_with("file,class,probability\n\"new/a"),
        "{text}"
    );
    let both = output(path, &["predict", "--csv", "--json", "new", "--run", "run"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn other_data_are_scored_by_the_names_of_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    picture_folder(&path.join("photos"), &[("", 20)], 20);
    let small = [
        "--set",
        "model.core.channels=8",
        "--set",
        "model.core.hidden=8",
    ];
    let options = ["train", "--data", "photos", "--epochs", "4", "--out", "run"];
    succeed(
        path,
        &[
            &options[..],
            &small,
            &["--device", "cpu", "--batch-size", "8"],
        ]
        .concat(),
    );
    let eval = |data: &str, more: &[&str]| {
        let arguments = [&["eval", "--json", "--data", data], &RUN[..], more].concat();
        let output = output(path, &arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        (
            serde_json::from_slice::<Value>(&output.stdout).unwrap(),
            error,
        )
    };
    // Larger pictures, a test part of its own, and another order of the same names.
    let other = path.join("other");
    for (part, count) in [("train", 3), ("test", 5)] {
        for (class, name) in CLASSES.iter().enumerate() {
            fs::create_dir_all(other.join(part).join(name)).unwrap();
            for number in 0..count {
                let file = other.join(part).join(name).join(format!("{number}.png"));
                tinted(class, 500 + number, 48).save(file).unwrap();
            }
        }
    }
    let (found, error) = eval("other", &[]);
    assert_eq!(found["scores"]["pictures"], 15, "{error}");
    assert_eq!(found["scores"]["classes"], json!(CLASSES));
    assert_eq!(found["part"], "part 'test'");
    assert!(
        found["scores"]["accuracy"].as_f64().unwrap() > 90.0,
        "{found}"
    );
    assert_eq!(error, "");
    let text = succeed(path, &[&["eval", "--data", "other"], &RUN[..]].concat());
    assert!(text.contains("other, part 'test'"), "{text}");
    // Without parts all pictures count, however few.
    fs::rename(other.join("train"), path.join("few")).unwrap();
    let (found, _) = eval("few", &[]);
    assert_eq!(
        (&found["scores"]["pictures"], &found["part"]),
        (&json!(9), &json!("all pictures"))
    );
    let (found, _) = eval("few", &["--limit", "4"]);
    assert_eq!(found["scores"]["pictures"], 4);
    // A test part alone is enough.
    assert_eq!(eval("other", &[]).0["scores"]["pictures"], 15);
    // Pictures that were trained on are reported.
    let (found, error) = eval("photos", &[]);
    assert_eq!(found["scores"]["pictures"], 60);
    assert!(
        error.contains("trained on 48 of these 60 pictures"),
        "{error}"
    );

    // The classes of IDX files have names, too, which differ from these; so do those of the digits.
    let error = fail(path, &[&["eval", "--data", "digits"], &RUN[..]].concat());
    assert!(
        error.contains("without apples, berries, clouds, but with 0, 1, 2, 7 more"),
        "{error}"
    );
    fs::rename(path.join("few/clouds"), path.join("few/crowds")).unwrap();
    let error = fail(path, &[&["eval", "--data", "few"], &RUN[..]].concat());
    assert!(error.contains("without clouds, but with crowds"), "{error}");
    fs::remove_dir_all(path.join("few/crowds")).unwrap();
    let error = fail(path, &[&["eval", "--data", "few"], &RUN[..]].concat());
    assert!(error.contains("they are without clouds; "), "{error}");
    // Digits in another shape and colour, as files.
    train(path, &["--epochs", "1", "--out", "digits"]);
    for digit in 0..10 {
        fs::create_dir_all(path.join(format!("drawn/{digit}"))).unwrap();
        bar()
            .save(path.join(format!("drawn/{digit}/a.png")))
            .unwrap();
    }
    let eval = [
        "eval", "--run", "digits", "--device", "cpu", "--data", "drawn",
    ];
    assert!(succeed(path, &eval).contains("(1 of 10)"));
}
