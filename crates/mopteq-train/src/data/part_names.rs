//! What the name of a folder says about parts: `train`, `seg_test`, `fold0`.

use std::ffi::OsStr;

/// What the pictures of a folder are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Test,
    Valid,
    /// There are no parts.
    None,
}

/// What a word of a name says.
enum Word {
    Part(Part),
    /// It says nothing, as in `train_data`.
    Filler,
    /// One of several equal shares, as in `fold0`.
    Share,
    Other,
}

fn word(word: &str) -> Word {
    match word.strip_suffix("set").unwrap_or(word) {
        "train" | "training" | "trn" => Word::Part(Part::Train),
        "test" | "testing" | "tst" | "eval" | "evaluation" => Word::Part(Part::Test),
        "val" | "valid" | "validation" | "dev" | "development" => Word::Part(Part::Valid),
        "split" | "part" => Word::Share,
        "" | "data" | "seg" | "images" | "image" | "imgs" | "img" | "pictures" | "photos" => {
            Word::Filler
        }
        "fold" | "kfold" | "sub" | "shard" | "chunk" | "batch" => Word::Share,
        _ => Word::Other,
    }
}

/// The words of a name in lower case: `trainImages_2` is `train`, `images`.
fn words(name: &OsStr) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in name.to_string_lossy().chars() {
        if (c.is_uppercase() && after_lower) || !c.is_alphabetic() {
            words.push(String::new());
        }
        if c.is_alphabetic()
            && let Some(last) = words.last_mut()
        {
            last.extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What a folder of this name is, if it is a part.
pub(super) fn part_of(name: &OsStr) -> Part {
    let mut part = Part::None;
    for found in words(name) {
        match word(&found) {
            Word::Part(this) if part == Part::None || part == this => part = this,
            Word::Filler => {}
            Word::Share if matches!(&*found, "split" | "part") => {}
            _ => return Part::None,
        }
    }
    part
}

/// The part that a name mentions among other words, as `flowers_train` does.
pub(super) fn part_within(name: &OsStr) -> Part {
    let part = |found: &String| match word(found) {
        Word::Part(part) => Some(part),
        _ => None,
    };
    words(name)
        .iter()
        .rev()
        .find_map(part)
        .unwrap_or(Part::None)
}

/// Whether a name is that of one share of several: `fold0`, `Split_3`.
pub(super) fn is_share(name: &OsStr) -> bool {
    let words = words(name);
    let fits = |found: &String| matches!(word(found), Word::Share | Word::Filler);
    words.iter().all(fits) && words.iter().any(|found| matches!(word(found), Word::Share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_speak_of_parts() {
        for (name, part, within) in [
            ("train", Part::Train, Part::Train),
            ("TrainImages", Part::Train, Part::Train),
            ("TEST-SET", Part::Test, Part::Test),
            ("testset", Part::Test, Part::Test),
            ("val2017", Part::Valid, Part::Valid),
            ("flowers_train", Part::None, Part::Train),
            ("my_test_data", Part::None, Part::Test),
            ("train-test", Part::None, Part::Test),
            ("contest", Part::None, Part::None),
            ("data", Part::None, Part::None),
        ] {
            let name = OsStr::new(name);
            assert_eq!(
                (part_of(name), part_within(name)),
                (part, within),
                "{name:?}"
            );
        }
        let shares = ["fold0", "Fold_1", "split 3", "data-part-2", "subset1"];
        assert!(shares.iter().all(|name| is_share(OsStr::new(name))));
        let others = ["folder", "cats", "chess set", "data", "7"];
        assert!(others.iter().all(|name| !is_share(OsStr::new(name))));
    }
}
