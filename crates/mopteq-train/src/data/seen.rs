//! What weights were trained on and chosen by, through every training that led to them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Digest, Picture};
use crate::names::counted;

/// What weights were trained on and chosen by, as far as that is known.
///
/// A run keeps it in `data-files.json`, and an exported model in its settings. So the pictures of
/// all earlier trainings are known, whatever lies between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// What the gradient saw.
    train: Digests,
    /// What checkpoints were chosen by.
    valid: Digests,
    /// There may be more, because one of the trainings kept no list.
    #[serde(default)]
    partly: bool,
}

/// The contents of pictures. For very many pictures, one text takes less room than a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
struct Digests(BTreeSet<Digest>);

impl From<Digests> for String {
    fn from(digests: Digests) -> Self {
        let texts: Vec<Self> = digests.0.iter().map(Digest::to_string).collect();
        texts.join(" ")
    }
}

impl TryFrom<String> for Digests {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digests = text.split_whitespace().map(str::to_owned);
        digests
            .map(Digest::try_from)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Seen {
    /// The message for an incomplete record.
    pub const PARTLY: &str =
        "the list of its training pictures is incomplete, so the test may include some of them";

    /// The message about test pictures that are left out.
    pub fn left_out(count: usize) -> String {
        let pictures = counted(count, "test picture is", "test pictures are");
        let them = if count == 1 { "it" } else { "them" };
        format!("{pictures} left out: the weights were trained on {them}")
    }

    /// Weights of which nothing is known.
    pub fn unknown() -> Self {
        Self {
            partly: true,
            ..Self::default()
        }
    }

    /// Whether there may be more than is known.
    pub fn is_partly(&self) -> bool {
        self.partly
    }

    /// Whether no picture is known.
    pub fn is_empty(&self) -> bool {
        self.train.0.is_empty() && self.valid.0.is_empty()
    }

    /// Whether a picture was trained on.
    pub fn trained_on(&self, picture: &Picture) -> bool {
        // If there is nothing to look for, the digest need not be computed.
        !self.train.0.is_empty() && picture.digest().is_some_and(|d| self.train.0.contains(&d))
    }

    /// Whether a picture was trained on or chosen by.
    pub fn contains(&self, picture: &Picture) -> bool {
        let known = |d| self.train.0.contains(&d) || self.valid.0.contains(&d);
        !self.is_empty() && picture.digest().is_some_and(known)
    }

    /// Adds the pictures of a training.
    pub(crate) fn add(
        &mut self,
        train: impl IntoIterator<Item = Digest>,
        valid: impl IntoIterator<Item = Digest>,
    ) {
        self.train.0.extend(train);
        self.valid.0.extend(valid);
    }

    /// Adds what other weights saw.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.add(other.train.0.iter().copied(), other.valid.0.iter().copied());
        self.partly |= other.partly;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_json_and_adds_up() {
        let picture = |content: u8| Picture::new(vec![content], 0);
        let digest = |content: u8| picture(content).digest();
        let mut seen = Seen::default();
        assert!(seen.is_empty() && !seen.contains(&picture(1)));
        seen.add(digest(1), digest(2));
        let mut other = Seen::unknown();
        other.add(digest(3), None);
        seen.merge(&other);
        let text = serde_json::to_string(&seen).unwrap();
        let back: Seen = serde_json::from_str(&text).unwrap();
        assert_eq!(back, seen);
        assert!(back.is_partly());
        let known = |content| {
            (
                back.trained_on(&picture(content)),
                back.contains(&picture(content)),
            )
        };
        assert_eq!(known(1), (true, true));
        assert_eq!(known(2), (false, true));
        assert_eq!(known(3), (true, true));
        assert_eq!(known(4), (false, false));
        assert!(serde_json::from_str::<Seen>(r#"{"train": "no digest", "valid": ""}"#).is_err());
    }
}
