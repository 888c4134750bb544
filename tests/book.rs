//! The book and the README: every link inside the repository has a target.

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

/// The targets of all links `[text](target)`, with their anchors.
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
    for folder in ["docs", "datasets", "crates"] {
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

/// The chapters that a file of `docs` links to, in its order.
fn chapters(file: &str) -> Vec<String> {
    let text = fs::read_to_string(docs().join(file)).unwrap();
    let is_chapter = |link: &String| link.ends_with(".md") && !link.starts_with("http");
    links(&text).into_iter().filter(is_chapter).collect()
}

fn docs() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    root.join("docs")
}

#[test]
fn every_chapter_is_in_both_tables_of_contents() {
    let contents = chapters("README.md");
    let mut files = Vec::new();
    markdown(&docs(), &mut files);
    let mut names: Vec<String> = files
        .iter()
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| !matches!(name.as_str(), "README.md" | "SUMMARY.md"))
        .collect();
    names.sort();
    let mut sorted = contents.clone();
    sorted.sort();
    assert_eq!(sorted, names);
    // mdBook's own table of contents: the first page, then the same chapters in the same order.
    let summary = chapters("SUMMARY.md");
    assert_eq!(summary[0], "README.md");
    assert_eq!(summary[1..], contents);
}

#[test]
fn the_book_links_to_nothing_that_is_not_in_it() {
    let summary = chapters("SUMMARY.md");
    for chapter in &summary {
        let text = fs::read_to_string(docs().join(chapter)).unwrap();
        for link in links(&text) {
            let target = link.split('#').next().unwrap();
            let inside = target.is_empty()
                || target.starts_with("http")
                || target.starts_with("images/")
                || summary.iter().any(|chapter| chapter == target);
            assert!(inside, "{chapter}: {link}");
            // An anchor must be that of a heading.
            if let Some((target, anchor)) = link.split_once('#')
                && !target.starts_with("http")
            {
                let file = if target.is_empty() { chapter } else { target };
                let text = fs::read_to_string(docs().join(file)).unwrap();
                assert!(
                    anchors(&text).contains(&anchor.to_owned()),
                    "{chapter}: {link}"
                );
            }
        }
    }
}

/// The anchors of the headings, as GitHub and mdBook generate them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.replace(' ', "-");
        let part = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_');
        kept.chars().filter(part).collect()
    };
    headings.map(anchor).collect()
}
