//! One order for pictures that come class by class.

use super::Picture;

/// Puts pictures in the order first of each class, second of each class, and so on, so that the
/// first pictures of the whole are a fair sample. Within a class the order stays.
pub(super) fn interleave(pictures: Vec<Picture>) -> Vec<Picture> {
    let mut seen: Vec<usize> = Vec::new();
    let mut keyed: Vec<(usize, Picture)> = pictures
        .into_iter()
        .map(|picture| {
            if seen.len() <= picture.label {
                seen.resize(picture.label + 1, 0);
            }
            seen[picture.label] += 1;
            (seen[picture.label], picture)
        })
        .collect();
    keyed.sort_by_key(|(rank, picture)| (*rank, picture.label));
    keyed.into_iter().map(|(_, picture)| picture).collect()
}
