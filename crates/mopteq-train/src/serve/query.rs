//! The part of an address after the question mark.

use super::http::Response;

/// The options of a request.
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Reads `a=1&b=2`. Only these names are known.
    pub(super) fn parse(text: &'a str, known: &[&str]) -> Result<Self, Response> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        let pairs = parts.map(|part| part.split_once('=').unwrap_or((part, "true")));
        let pairs: Vec<_> = pairs.collect();
        match pairs.iter().find(|(name, _)| !known.contains(name)) {
            None => Ok(Self(pairs)),
            Some((name, _)) => {
                let known = known.join(", ");
                let message = format!("unknown option {name:?} in the address; known: {known}");
                Err(Response::error(400, &message))
            }
        }
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        let mut named = self.0.iter().filter(|(known, _)| *known == name);
        named.next_back().map(|(_, value)| *value)
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<usize>, Response> {
        let wrong = || Response::error(400, &format!("{name}: must be a whole number"));
        let value = self
            .value(name)
            .map(|value| value.parse().map_err(|_| wrong()));
        value.transpose()
    }

    /// Yes or no; no if it is missing.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Response> {
        match self.value(name) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(Response::error(
                400,
                &format!("{name}: must be true or false"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_others_named() {
        let known = ["top", "invert"];
        let parse = |text| Query::parse(text, &known).map_err(|answer| answer.status());
        let query = parse("top=4&invert").unwrap();
        assert_eq!(query.number("top").unwrap(), Some(4));
        assert!(query.flag("invert").unwrap());
        let none = parse("").unwrap();
        assert_eq!(none.number("top").unwrap(), None);
        assert!(!none.flag("invert").unwrap());
        assert!(parse("tpo=1").is_err());
        let wrong = parse("top=-1&invert=perhaps").unwrap();
        assert!(wrong.number("top").is_err() && wrong.flag("invert").is_err());
    }
}
