//! RandAugment: a few operations drawn at random, all of the same strength.
//!
//! Cubuk, Zoph, Shlens, Le: "RandAugment: Practical automated data augmentation with a reduced
//! search space" (2019), arXiv:1909.13719. The operations are those of the paper, with the ranges
//! of its experiments. Where an operation can go both ways (darker and brighter, left and right),
//! the way is drawn, so that a magnitude of 0 changes nothing and a larger one changes more.

use std::f32::consts::PI;
use std::str::FromStr;

use rand::{RngExt, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::PictureShape;
use super::transform::{brighten, saturate, stretch, warp};

/// Number and strength of the operations of RandAugment. Off with no operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RandAugment {
    /// Operations that a picture goes through, each drawn from all 14.
    pub operations: usize,
    /// Their strength, 0 to 10, as the paper counts it: 10 is the end of each range.
    pub magnitude: f32,
}

impl RandAugment {
    /// Leaves pictures as they are.
    pub const NONE: Self = Self {
        operations: 0,
        magnitude: 0.0,
    };
    /// The largest magnitude.
    pub const STRONGEST: f32 = 10.0;
    /// The largest number of operations: more leave nothing of a picture.
    pub const MOST: usize = 14;

    /// Changes the values, 0 to 255, of a picture.
    pub(super) fn apply(&self, values: &mut [f32], shape: PictureShape, rng: &mut StdRng) {
        for _ in 0..self.operations {
            let operation = OPERATIONS[rng.random_range(0..OPERATIONS.len())];
            // Drawn for every operation, so that later draws do not depend on which operation it
            // is.
            let way = if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            operation.apply(values, shape, way * self.magnitude / Self::STRONGEST);
        }
    }
}

impl FromStr for RandAugment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(',').and_then(|(operations, magnitude)| {
            Some(Self {
                operations: operations.trim().parse().ok()?,
                magnitude: magnitude.trim().parse().ok()?,
            })
        });
        parts.ok_or_else(|| {
            "expected the number of operations and their magnitude (0 to 10), such as 2,9".into()
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operation {
    Identity,
    AutoContrast,
    Equalize,
    Rotate,
    Solarize,
    Color,
    Posterize,
    Contrast,
    Brightness,
    Sharpness,
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
}

const OPERATIONS: [Operation; 14] = [
    Operation::Identity,
    Operation::AutoContrast,
    Operation::Equalize,
    Operation::Rotate,
    Operation::Solarize,
    Operation::Color,
    Operation::Posterize,
    Operation::Contrast,
    Operation::Brightness,
    Operation::Sharpness,
    Operation::ShearX,
    Operation::ShearY,
    Operation::TranslateX,
    Operation::TranslateY,
];

impl Operation {
    /// `strength` is the share of the operation's range, from -1 to 1 if it has two ways.
    fn apply(self, values: &mut [f32], shape: PictureShape, strength: f32) {
        let factor = 1.0 + 0.9 * strength;
        let share = strength.abs();
        match self {
            Self::Identity => {}
            Self::AutoContrast => channels(values, shape).for_each(auto_contrast),
            Self::Equalize => channels(values, shape).for_each(equalize),
            Self::Rotate => {
                let (sin, cos) = (strength * PI / 6.0).sin_cos();
                transform(values, shape, |x, y| (cos * x + sin * y, cos * y - sin * x));
            }
            Self::Solarize => solarize(values, 256.0 * (1.0 - share)),
            Self::Color => saturate(values, shape, factor),
            Self::Posterize => posterize(values, (4.0 * share).round() as i32),
            Self::Contrast => stretch(values, factor),
            Self::Brightness => brighten(values, factor),
            Self::Sharpness => sharpen(values, shape, factor),
            Self::ShearX => transform(values, shape, |x, y| (x + 0.3 * strength * y, y)),
            Self::ShearY => transform(values, shape, |x, y| (x, y + 0.3 * strength * x)),
            Self::TranslateX => {
                let shift = 0.45 * strength * shape.width as f32;
                transform(values, shape, |x, y| (x - shift, y));
            }
            Self::TranslateY => {
                let shift = 0.45 * strength * shape.height as f32;
                transform(values, shape, |x, y| (x, y - shift));
            }
        }
    }
}

fn channels(values: &mut [f32], shape: PictureShape) -> impl Iterator<Item = &mut [f32]> {
    values.chunks_exact_mut(shape.height * shape.width)
}

fn transform(values: &mut [f32], shape: PictureShape, place: impl Fn(f32, f32) -> (f32, f32)) {
    let mut moved = Vec::with_capacity(shape.height * shape.width);
    for channel in channels(values, shape) {
        moved.clear();
        warp(channel, shape, &place, &mut moved);
        channel.copy_from_slice(&moved);
    }
}

/// Stretches a channel to the whole range.
fn auto_contrast(channel: &mut [f32]) {
    let ends = (f32::INFINITY, f32::NEG_INFINITY);
    let (low, high) = channel.iter().fold(ends, |(low, high), value| {
        (low.min(*value), high.max(*value))
    });
    if high > low {
        let scale = 255.0 / (high - low);
        channel
            .iter_mut()
            .for_each(|value| *value = (*value - low) * scale);
    }
}

/// Makes every brightness about as frequent as the others: a level becomes the share of the
/// pixels below it. Pixels of the highest level are left out of the count, so that it becomes 255.
fn equalize(channel: &mut [f32]) {
    let level = |value: f32| value.round().clamp(0.0, 255.0) as usize;
    let mut counts = [0_usize; 256];
    channel.iter().for_each(|value| counts[level(*value)] += 1);
    let highest = counts.iter().rev().find(|count| **count > 0);
    let all = channel.len() - highest.copied().unwrap_or(0);
    if all == 0 {
        return;
    }
    let mut below = 0;
    let table = counts.map(|count| {
        let share = below as f32 / all as f32;
        below += count;
        255.0 * share
    });
    channel
        .iter_mut()
        .for_each(|value| *value = table[level(*value)]);
}

/// Inverts what is as bright as the threshold, or brighter.
fn solarize(values: &mut [f32], threshold: f32) {
    for value in values {
        if *value >= threshold {
            *value = 255.0 - *value;
        }
    }
}

/// Drops the lowest `dropped` of the 8 bits of each value.
fn posterize(values: &mut [f32], dropped: i32) {
    if dropped > 0 {
        let step = 2.0_f32.powi(dropped);
        values
            .iter_mut()
            .for_each(|value| *value = (*value / step).floor() * step);
    }
}

/// Moves each pixel away from the mean around it (factors above 1) or towards it. The rim stays.
fn sharpen(values: &mut [f32], shape: PictureShape, factor: f32) {
    let width = shape.width;
    for channel in channels(values, shape) {
        let source = channel.to_vec();
        for row in 1..shape.height.saturating_sub(1) {
            for column in 1..width.saturating_sub(1) {
                let place = row * width + column;
                // The pixel itself counts five times.
                let rows = [place - width, place, place + width];
                let around = rows.map(|middle| source[middle - 1..=middle + 1].iter().sum::<f32>());
                let smooth = (around.iter().sum::<f32>() + 4.0 * source[place]) / 13.0;
                let value = smooth + (source[place] - smooth) * factor;
                channel[place] = value.clamp(0.0, 255.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    const fn shape(channels: usize, height: usize, width: usize) -> PictureShape {
        PictureShape {
            channels,
            height,
            width,
        }
    }

    fn done(operation: Operation, strength: f32, shape: PictureShape, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        operation.apply(&mut values, shape, strength);
        values
    }

    fn near(found: &[f32], expected: &[f32]) {
        near_by(found, expected, 1e-3);
    }

    fn near_by(found: &[f32], expected: &[f32], limit: f32) {
        let same = |(a, b): (&f32, &f32)| (a - b).abs() < limit;
        let all = found.len() == expected.len() && found.iter().zip(expected).all(same);
        assert!(all, "{found:?} is not {expected:?}");
    }

    /// Some picture with all kinds of values.
    fn picture(shape: PictureShape) -> Vec<f32> {
        (0..shape.len()).map(|i| ((i * 97) % 256) as f32).collect()
    }

    #[test]
    fn without_strength_only_the_two_without_a_range_change_anything() {
        let shape = shape(3, 7, 6);
        for operation in OPERATIONS {
            let out = done(operation, 0.0, shape, &picture(shape));
            match operation {
                Operation::AutoContrast | Operation::Equalize => assert_ne!(out, picture(shape)),
                _ => near(&out, &picture(shape)),
            }
        }
    }

    #[test]
    fn operations_on_values_are_right_on_small_pictures() {
        use Operation::*;
        let row = shape(1, 1, 4);
        let of = |operation, strength, values: [f32; 4]| done(operation, strength, row, &values);
        near(
            &of(AutoContrast, 0.5, [10.0, 61.0, 112.0, 10.0]),
            &[0.0, 127.5, 255.0, 0.0],
        );
        near(&of(AutoContrast, 0.5, [9.0; 4]), &[9.0; 4]);
        // Two of the three below the highest level are below 20.
        near(
            &of(Equalize, 0.5, [10.0, 30.0, 20.0, 10.0]),
            &[0.0, 255.0, 170.0, 0.0],
        );
        near(&of(Equalize, 0.5, [9.0; 4]), &[9.0; 4]);
        near(
            &of(Solarize, -0.5, [0.0, 127.0, 128.0, 255.0]),
            &[0.0, 127.0, 127.0, 0.0],
        );
        near(
            &of(Solarize, 1.0, [0.0, 1.0, 128.0, 255.0]),
            &[255.0, 254.0, 127.0, 0.0],
        );
        near(
            &of(Posterize, 1.0, [0.0, 15.0, 16.0, 255.0]),
            &[0.0, 0.0, 16.0, 240.0],
        );
        near(
            &of(Posterize, -0.25, [0.0, 15.0, 16.0, 255.0]),
            &[0.0, 14.0, 16.0, 254.0],
        );
        near(
            &of(Brightness, -1.0, [0.0, 50.0, 100.0, 250.0]),
            &[0.0, 5.0, 10.0, 25.0],
        );
        near(
            &of(Brightness, 1.0, [0.0, 50.0, 100.0, 250.0]),
            &[0.0, 95.0, 190.0, 255.0],
        );
        near(
            &of(Contrast, -1.0, [50.0, 150.0, 50.0, 150.0]),
            &[95.0, 105.0, 95.0, 105.0],
        );
        // Grey has no colour to lose; of red a tenth of the distance from its grey is left.
        near(
            &of(Color, -1.0, [0.0, 50.0, 100.0, 250.0]),
            &[0.0, 50.0, 100.0, 250.0],
        );
        let grey = 0.299 * 200.0;
        let red = [grey + 0.1 * (200.0 - grey), 0.9 * grey, 0.9 * grey];
        near(&done(Color, -1.0, shape(3, 1, 1), &[200.0, 0.0, 0.0]), &red);
        // 13 in the middle of nothing is smoothed to 5; the other pixels are the rim.
        let dot = |middle: f32| [0.0, 0.0, 0.0, 0.0, middle, 0.0, 0.0, 0.0, 0.0];
        near(
            &done(Sharpness, -1.0, shape(1, 3, 3), &dot(13.0)),
            &dot(5.0 + 0.1 * 8.0),
        );
        near(
            &done(Sharpness, 1.0, shape(1, 3, 3), &dot(13.0)),
            &dot(5.0 + 1.9 * 8.0),
        );
    }

    #[test]
    fn operations_on_places_are_right_on_small_pictures() {
        use Operation::*;
        // A shear of 0.3 moves the rows at a distance of 10 from the middle by 3 pixels.
        let square = shape(1, 21, 21);
        let mut column = vec![0.0; 441];
        (0..21).for_each(|row| column[row * 21 + 10] = 100.0);
        let lit = |out: &[f32], row: usize| out[row * 21..][..21].iter().position(|v| *v > 99.0);
        let out = done(ShearX, 1.0, square, &column);
        assert_eq!(
            [0, 10, 20].map(|row| lit(&out, row)),
            [Some(13), Some(10), Some(7)]
        );
        let turned = |values: &[f32]| -> Vec<f32> {
            (0..441).map(|i| values[(i % 21) * 21 + i / 21]).collect()
        };
        near(&done(ShearY, 1.0, square, &turned(&column)), &turned(&out));
        // 0.45 of a width of 20 is 9 pixels.
        let wide = shape(2, 2, 20);
        let ramp: Vec<f32> = (0..80).map(|i| (i % 20) as f32 + 1.0).collect();
        let moved: Vec<f32> = (0..80).map(|i| (i as f32 % 20.0 - 8.0).max(0.0)).collect();
        near(&done(TranslateX, 1.0, wide, &ramp), &moved);
        let tall = shape(1, 20, 1);
        near(&done(TranslateY, 1.0, tall, &ramp[..20]), &moved[..20]);
        // Three times the range of 30 degrees is a quarter turn, twelve times a whole one.
        let some = picture(square);
        let quarter: Vec<f32> = (0..441)
            .map(|i| some[(20 - i % 21) * 21 + i / 21])
            .collect();
        let clockwise = done(Rotate, 3.0, square, &some);
        near_by(&clockwise, &quarter, 0.1);
        near_by(&done(Rotate, -3.0, square, &clockwise), &some, 0.1);
        near_by(&done(Rotate, 12.0, square, &some), &some, 0.1);
        assert!(done(Rotate, 0.5, square, &some) != some);
    }

    #[test]
    fn the_result_is_a_function_of_the_seed_and_stays_in_range() {
        for (channels, height, width) in [(3, 8, 8), (1, 5, 9), (3, 2, 1), (1, 1, 1)] {
            let shape = shape(channels, height, width);
            let apply = |seed, magnitude| {
                let mut values = picture(shape);
                let operations = RandAugment::MOST;
                let all = RandAugment {
                    operations,
                    magnitude,
                };
                all.apply(&mut values, shape, &mut StdRng::seed_from_u64(seed));
                values
            };
            for seed in 0..100 {
                let out = apply(seed, (seed % 11) as f32);
                assert_eq!(out, apply(seed, (seed % 11) as f32));
                assert!(out.iter().all(|v| (-1e-3..=255.001).contains(v)), "{out:?}");
            }
            assert!(shape.len() < 10 || apply(1, 9.0) != apply(2, 9.0));
        }
    }

    #[test]
    fn it_is_written_as_two_numbers() {
        let two = RandAugment {
            operations: 2,
            magnitude: 9.0,
        };
        assert_eq!("2,9".parse(), Ok(two));
        assert_eq!("2, 9.0".parse(), Ok(two));
        for wrong in ["", "2", "9.5,2", "2,many", "2,9,1", "-1,3"] {
            let error = wrong.parse::<RandAugment>().unwrap_err();
            assert!(error.contains("such as 2,9"), "{error}");
        }
    }
}
