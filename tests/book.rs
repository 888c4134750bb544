//! The book and the README: every link inside of the repository leads somewhere.

use std::fs;
use std::path::{Path, PathBuf};

fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            markdown(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The targets of `[text](target)` and of headings' anchors in it.
fn links(text: &str) -> Vec<String> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn no_link_is_dead() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["docs", "datasets"] {
        markdown(&root.join(folder), &mut files);
    }
    files.push(root.join("README.md"));
    assert!(files.len() > 8, "{files:?}");
    let mut dead = Vec::new();
    for file in &files {
        for link in links(&fs::read_to_string(file).unwrap()) {
            let target = link.split('#').next().unwrap();
            let outside = target.starts_with("http") || target.starts_with("mailto:");
            if !outside && !target.is_empty() && !file.parent().unwrap().join(target).exists() {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert_eq!(dead, Vec::<String>::new());
}

#[test]
fn every_chapter_is_in_the_table_of_contents() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .join("docs");
    let contents = links(&fs::read_to_string(docs.join("README.md")).unwrap());
    let mut chapters = Vec::new();
    markdown(&docs, &mut chapters);
    for chapter in chapters {
        let name = chapter.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name == "README.md" || contents.contains(&name), "{name}");
    }
}
