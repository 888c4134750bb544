//! One seed for the run, independent streams for its parts.

/// What a stream of random numbers is for. Each purpose has its own numbers, so that a change in
/// one (say, more augmentation) leaves the others as they were.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    /// Initial parameters.
    Parameters = 1,
    /// The split of the training data into training and validation.
    Split = 2,
    /// The order of the pictures in an epoch.
    Order = 3,
    /// The augmentation of one picture in one epoch.
    Augmentation = 4,
    /// Noise drawn by the model during a block of batches.
    Noise = 5,
}

/// The seed of a stream at a position such as (epoch, picture).
pub(crate) fn derive(seed: u64, stream: Stream, position: [u64; 2]) -> u64 {
    [stream as u64, position[0], position[1]]
        .into_iter()
        .fold(splitmix(seed), |state, word| {
            splitmix(state ^ splitmix(word))
        })
}

/// The finaliser of SplitMix64: a bijection that spreads small inputs over all bits.
fn splitmix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn streams_and_positions_do_not_collide() {
        let mut seen = HashSet::new();
        for stream in [
            Stream::Parameters,
            Stream::Order,
            Stream::Augmentation,
            Stream::Noise,
        ] {
            for a in 0..50 {
                for b in 0..50 {
                    assert!(seen.insert(derive(7, stream, [a, b])));
                }
            }
        }
        assert_eq!(
            derive(7, Stream::Order, [1, 2]),
            derive(7, Stream::Order, [1, 2])
        );
    }
}
