//! Holding out a validation part of the training data.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::{Digest, Picture};
use crate::seed::{Stream, derive};

/// Pictures to train on and pictures to choose by.
#[derive(Clone, Debug)]
pub struct Split {
    /// What the gradient sees.
    pub train: Vec<Picture>,
    /// What the best checkpoint is chosen by.
    pub valid: Vec<Picture>,
}

/// Holds out `fraction` of each class, chosen by the seed: files by their names, so that their
/// order and number matter as little as possible, others by their positions.
///
/// Every class gives `fraction` times its size, rounded, so the held-out part has the same share
/// of each class as the whole. Both parts keep the order of `pictures`.
pub fn stratified_split(pictures: Vec<Picture>, fraction: f64, seed: u64) -> Split {
    split_with_last(pictures, fraction, seed, |_| false)
}

/// The same, but pictures that are `last` are held out only if there are too few others.
pub(crate) fn split_with_last(
    pictures: Vec<Picture>,
    fraction: f64,
    seed: u64,
    last: impl Fn(&Picture) -> bool,
) -> Split {
    let classes = pictures
        .iter()
        .map(|picture| picture.label + 1)
        .max()
        .unwrap_or(0);
    let mut held_out = vec![false; pictures.len()];
    for class in 0..classes {
        let mut members: Vec<usize> = (0..pictures.len())
            .filter(|i| pictures[*i].label == class)
            .collect();
        if members.iter().all(|i| pictures[*i].origin.is_some()) {
            let seed = derive(seed, Stream::Split, [0, 0]).to_le_bytes();
            members.sort_by_cached_key(|i| {
                let name = pictures[*i]
                    .origin
                    .as_ref()
                    .map_or("", |origin| &origin.name);
                (Digest::of_parts(&[&seed, name.as_bytes()]), name.to_owned())
            });
        } else {
            let seed = derive(seed, Stream::Split, [class as u64, 0]);
            members.shuffle(&mut StdRng::seed_from_u64(seed));
        }
        members.sort_by_cached_key(|i| last(&pictures[*i]));
        let count = (fraction * members.len() as f64).round() as usize;
        for index in members.into_iter().take(count) {
            held_out[index] = true;
        }
    }
    let mut split = Split {
        train: Vec::new(),
        valid: Vec::new(),
    };
    for (picture, held_out) in pictures.into_iter().zip(held_out) {
        if held_out {
            &mut split.valid
        } else {
            &mut split.train
        }
        .push(picture);
    }
    split
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pictures(count: usize) -> Vec<Picture> {
        (0..count)
            .map(|i| Picture::new(i.to_le_bytes().to_vec(), i % 7))
            .collect()
    }

    fn numbers(pictures: &[Picture]) -> Vec<usize> {
        let number = |picture: &Picture| {
            let bytes = picture.pixels.read().unwrap().into_owned();
            usize::from_le_bytes(bytes.try_into().unwrap())
        };
        pictures.iter().map(number).collect()
    }

    #[test]
    fn every_class_gives_its_share() {
        let split = stratified_split(pictures(700), 0.1, 3);
        assert_eq!((split.train.len(), split.valid.len()), (630, 70));
        for class in 0..7 {
            assert_eq!(
                split
                    .valid
                    .iter()
                    .filter(|picture| picture.label == class)
                    .count(),
                10
            );
        }
        let mut all = numbers(&[split.train, split.valid].concat());
        all.sort_unstable();
        assert_eq!(all, (0..700).collect::<Vec<_>>());
    }

    #[test]
    fn files_are_chosen_by_name_in_whatever_order_and_company() {
        let file = |i: &usize| Picture {
            origin: Some(std::sync::Arc::new(crate::data::Origin {
                name: format!("{}/{i}.png", i % 7),
                digest: Digest::of(b""),
            })),
            ..Picture::new(i.to_le_bytes().to_vec(), i % 7)
        };
        let valid = |order: &[usize], seed| {
            let mut held_out =
                numbers(&stratified_split(order.iter().map(file).collect(), 0.2, seed).valid);
            held_out.sort_unstable();
            held_out
        };
        let order: Vec<usize> = (0..700).collect();
        let all = valid(&order, 3);
        assert_eq!(all.len(), 140);
        assert_ne!(all, valid(&order, 4));
        let reversed: Vec<usize> = order.iter().rev().copied().collect();
        assert_eq!(valid(&reversed, 3), all);
        // Another class, or one picture less, moves at most one picture of a class.
        let fewer: Vec<usize> = order.iter().copied().filter(|i| i % 7 > 0).collect();
        let rest: Vec<usize> = all.iter().copied().filter(|i| i % 7 > 0).collect();
        assert_eq!(valid(&fewer, 3), rest);
        let now = valid(&order[7..], 3);
        let moved = now.iter().filter(|i| !all.contains(i)).count();
        assert!(moved <= 7, "{moved}");
    }

    #[test]
    fn some_are_held_out_only_where_the_others_are_too_few() {
        // Of each class of 100, 30 are held out; 20 of it may be held out first.
        let known = |picture: &Picture| numbers(std::slice::from_ref(picture))[0] >= 140;
        let split = split_with_last(pictures(700), 0.3, 3, known);
        let held_out = numbers(&split.valid);
        assert_eq!(held_out.len(), 210);
        assert_eq!(held_out.iter().filter(|i| **i < 140).count(), 140);
        let split = split_with_last(pictures(700), 0.1, 3, known);
        assert_eq!(split.valid.len(), 70);
        assert!(numbers(&split.valid).iter().all(|i| *i < 140));
    }

    #[test]
    fn depends_on_the_seed_alone() {
        let valid = |seed| numbers(&stratified_split(pictures(700), 0.1, seed).valid);
        assert_eq!(valid(3), valid(3));
        assert_ne!(valid(3), valid(4));
        assert!(stratified_split(pictures(700), 0.0, 3).valid.is_empty());
    }
}
