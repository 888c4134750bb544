//! Answering an unknown name with the nearest known one.

/// The known name that is most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |known: &&&str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let best = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.7).then_some(*best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["digits", "cifar10", "imagenette"];
        assert_eq!(nearest("cifar-10", &known), Some("cifar10"));
        assert_eq!(nearest("Imagenet", &known), Some("imagenette"));
        assert_eq!(nearest("qqq", &known), None);
    }
}
