//! Holding out a validation part of the training data.

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::Picture;
use crate::seed::{Stream, derive};

/// Pictures to train on and pictures to choose by.
#[derive(Clone, Debug)]
pub struct Split {
    /// What the gradient sees.
    pub train: Vec<Picture>,
    /// What the best checkpoint is chosen by.
    pub valid: Vec<Picture>,
}

/// Holds out `fraction` of each class, chosen by the seed.
///
/// Every class gives `fraction` times its size, rounded, so the held-out part has the same share
/// of each class as the whole. Both parts keep the order of `pictures`.
pub fn stratified_split(pictures: Vec<Picture>, fraction: f64, seed: u64) -> Split {
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
        let seed = derive(seed, Stream::Split, [class as u64, 0]);
        members.shuffle(&mut StdRng::seed_from_u64(seed));
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
            .map(|i| Picture {
                pixels: i.to_le_bytes().to_vec().into(),
                label: i % 7,
            })
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
    fn depends_on_the_seed_alone() {
        let valid = |seed| numbers(&stratified_split(pictures(700), 0.1, seed).valid);
        assert_eq!(valid(3), valid(3));
        assert_ne!(valid(3), valid(4));
        assert!(stratified_split(pictures(700), 0.0, 3).valid.is_empty());
    }
}
