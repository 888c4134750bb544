//! Small random deformations of training pictures.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::PictureShape;

/// How far a training picture may be moved, turned and scaled.
///
/// Each time a picture is drawn, shift, angle and scale are drawn uniformly from these ranges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Largest shift along each axis, in pixels.
    pub max_shift: f32,
    /// Largest rotation either way, in degrees.
    pub max_rotation: f32,
    /// Largest relative change of size either way: 0.1 is 90 % to 110 %.
    pub max_scale: f32,
}

impl Augmentation {
    /// Leaves pictures as they are.
    pub const NONE: Self = Self {
        max_shift: 0.0,
        max_rotation: 0.0,
        max_scale: 0.0,
    };

    /// Values of 0 to 255 of the deformed picture, appended to `out` in the order of `pixels`.
    ///
    /// The result depends on nothing but the arguments. What comes in from outside the picture is
    /// black (0). `pixels` must have `shape.len()` values.
    pub fn apply(&self, pixels: &[u8], shape: PictureShape, seed: u64, out: &mut Vec<f32>) {
        if *self == Self::NONE {
            out.extend(pixels.iter().map(|value| f32::from(*value)));
            return;
        }
        let mut rng = StdRng::seed_from_u64(seed);
        let mut draw = |limit: f32| {
            if limit > 0.0 {
                rng.random_range(-limit..=limit)
            } else {
                0.0
            }
        };
        let (shift_x, shift_y) = (draw(self.max_shift), draw(self.max_shift));
        let angle = draw(self.max_rotation).to_radians();
        let scale = 1.0 + draw(self.max_scale);

        // For each pixel of the result, the place in the source that it shows.
        let (sin, cos) = (angle.sin() / scale, angle.cos() / scale);
        let (middle_x, middle_y) = (
            (shape.width as f32 - 1.0) / 2.0,
            (shape.height as f32 - 1.0) / 2.0,
        );
        for channel in pixels.chunks_exact(shape.height * shape.width) {
            for row in 0..shape.height {
                for column in 0..shape.width {
                    let x = column as f32 - middle_x - shift_x;
                    let y = row as f32 - middle_y - shift_y;
                    let source_x = cos * x + sin * y + middle_x;
                    let source_y = cos * y - sin * x + middle_y;
                    out.push(bilinear(channel, shape, source_x, source_y));
                }
            }
        }
    }
}

/// The value at a place between the pixels of one channel, 0 outside.
fn bilinear(channel: &[u8], shape: PictureShape, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let (right_part, bottom_part) = (x - left, y - top);
    let at = |row: i64, column: i64| -> f32 {
        let inside =
            (0..shape.height as i64).contains(&row) && (0..shape.width as i64).contains(&column);
        if inside {
            f32::from(channel[row as usize * shape.width + column as usize])
        } else {
            0.0
        }
    };
    let (row, column) = (top as i64, left as i64);
    let upper = at(row, column) * (1.0 - right_part) + at(row, column + 1) * right_part;
    let lower = at(row + 1, column) * (1.0 - right_part) + at(row + 1, column + 1) * right_part;
    upper * (1.0 - bottom_part) + lower * bottom_part
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: PictureShape = PictureShape {
        channels: 2,
        height: 9,
        width: 9,
    };

    fn apply(augmentation: &Augmentation, pixels: &[u8], seed: u64) -> Vec<f32> {
        let mut out = Vec::new();
        augmentation.apply(pixels, SHAPE, seed, &mut out);
        out
    }

    fn dot() -> Vec<u8> {
        let mut pixels = vec![0; SHAPE.len()];
        pixels[4 * 9 + 4] = 200;
        pixels[81 + 4 * 9 + 4] = 100;
        pixels
    }

    #[test]
    fn depends_on_the_seed_alone() {
        let some = Augmentation {
            max_shift: 2.0,
            max_rotation: 10.0,
            max_scale: 0.1,
        };
        assert_eq!(apply(&some, &dot(), 5), apply(&some, &dot(), 5));
        assert_ne!(apply(&some, &dot(), 5), apply(&some, &dot(), 6));
        let unchanged: Vec<f32> = dot().into_iter().map(f32::from).collect();
        assert_eq!(apply(&Augmentation::NONE, &dot(), 5), unchanged);
    }

    #[test]
    fn the_middle_stays_under_rotation_and_scaling() {
        let turn = Augmentation {
            max_shift: 0.0,
            max_rotation: 45.0,
            max_scale: 0.3,
        };
        let out = apply(&turn, &dot(), 1);
        assert!((out[4 * 9 + 4] - 200.0).abs() < 1e-3 && (out[81 + 40] - 100.0).abs() < 1e-3);
    }

    #[test]
    fn a_shift_keeps_the_light_and_moves_it_by_no_more_than_its_limit() {
        let shift = Augmentation {
            max_shift: 2.0,
            max_rotation: 0.0,
            max_scale: 0.0,
        };
        for seed in 0..50 {
            let out = apply(&shift, &dot(), seed);
            assert!((out[..81].iter().sum::<f32>() - 200.0).abs() < 1e-2);
            let beyond = (0..81).filter(|i| (i / 9_i32 - 4).abs() > 2 || (i % 9 - 4).abs() > 2);
            assert!(beyond.into_iter().all(|i| out[i as usize] == 0.0));
        }
    }
}
