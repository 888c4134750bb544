//! Names and numbers in messages.

/// The known name that is most like `name`, if any is like it at all.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let likeness = |known: &&&str| strsim::jaro_winkler(&name.to_lowercase(), known);
    let best = known
        .iter()
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) > 0.7).then_some(*best)
}

/// A number with its noun: `1 picture is`, `2 pictures are`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A duration for people: `8 s`, `2 min 05 s`, `1 h 12 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// A name for a line of its own: line breaks and everything else that moves a cursor are escaped.
pub fn shown(name: &str) -> String {
    let escaped = |c: char| match c.is_control() {
        true => c.escape_default().to_string(),
        false => c.to_string(),
    };
    name.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_keep_to_their_line() {
        assert_eq!(
            shown("new\nline \u{1b}[2J caf\u{e9}"),
            "new\\nline \\u{1b}[2J caf\u{e9}"
        );
        assert_eq!(counted(1, "picture is", "pictures are"), "1 picture is");
        assert_eq!(counted(0, "picture is", "pictures are"), "0 pictures are");
    }

    #[test]
    fn durations_are_readable() {
        assert_eq!(duration(7.6), "8 s");
        assert_eq!(duration(125.0), "2 min 05 s");
        assert_eq!(duration(4321.0), "1 h 12 min");
        assert_eq!(duration(-1.0), "0 s");
    }

    #[test]
    fn finds_what_was_meant() {
        let known = ["digits", "cifar10", "imagenette"];
        assert_eq!(nearest("cifar-10", &known), Some("cifar10"));
        assert_eq!(nearest("Imagenet", &known), Some("imagenette"));
        assert_eq!(nearest("qqq", &known), None);
    }
}
