//! Small random deformations of training pictures.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::PictureShape;
use super::rand_augment::RandAugment;
use super::transform::{bilinear, brighten, saturate, stretch, value_at, warp};

/// How a training picture may be changed each time it is drawn. Everything is off at 0.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// Largest shift along each axis, in pixels. It may be a fraction of a pixel.
    pub max_shift: f32,
    /// Largest rotation either way, in degrees.
    pub max_rotation: f32,
    /// Largest relative change of size either way: 0.1 is 90 % to 110 %.
    pub max_scale: f32,
    /// Smallest share of the area that a random crop of random aspect ratio (3/4 to 4/3) keeps
    /// before it is scaled to the whole; 0 takes no such crop.
    pub min_crop_area: f32,
    /// Pixels of black border that are added all around before a crop of the old size is taken.
    pub padding: usize,
    /// Whether half of the pictures are mirrored left to right.
    pub flip: bool,
    /// A few operations drawn from many, all of the same strength (RandAugment).
    pub rand_augment: RandAugment,
    /// Largest relative change of brightness either way.
    pub brightness: f32,
    /// Largest relative change of contrast either way.
    pub contrast: f32,
    /// Largest relative change of the distance of colours from grey either way.
    pub saturation: f32,
    /// Side of a square that is painted over with the mean colour, in pixels; it may reach out
    /// of the picture (cutout).
    pub cutout: usize,
}

impl Augmentation {
    /// Leaves pictures as they are.
    pub const NONE: Self = Self {
        max_shift: 0.0,
        max_rotation: 0.0,
        max_scale: 0.0,
        min_crop_area: 0.0,
        padding: 0,
        flip: false,
        rand_augment: RandAugment::NONE,
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        cutout: 0,
    };

    /// Values of 0 to 255 of the changed picture, appended to `out` in the order of `pixels`.
    ///
    /// The result depends on nothing but the arguments. What comes in from outside the picture is
    /// black (0). `pixels` must have `shape.len()` values; `mean`, on the scale 0 to 1, is the
    /// colour of the cutout.
    pub fn apply(
        &self,
        pixels: &[u8],
        shape: PictureShape,
        mean: &[f32],
        seed: u64,
        out: &mut Vec<f32>,
    ) {
        let start = out.len();
        if *self == Self::NONE {
            out.extend(pixels.iter().map(|value| f32::from(*value)));
            return;
        }
        let mut rng = StdRng::seed_from_u64(seed);
        self.deform(pixels, shape, &mut rng, out);
        let values = &mut out[start..];
        if self.min_crop_area > 0.0 {
            random_resized_crop(values, shape, self.min_crop_area, &mut rng);
        }
        if self.padding > 0 {
            padded_crop(values, shape, self.padding, &mut rng);
        }
        if self.flip && rng.random_bool(0.5) {
            values
                .chunks_exact_mut(shape.width)
                .for_each(<[f32]>::reverse);
        }
        self.rand_augment.apply(values, shape, &mut rng);
        self.jitter(values, shape, &mut rng);
        if self.cutout > 0 {
            cut_out(values, shape, self.cutout, mean, &mut rng);
        }
    }

    /// Shift, rotation and change of size, in one resampling.
    fn deform(&self, pixels: &[u8], shape: PictureShape, rng: &mut StdRng, out: &mut Vec<f32>) {
        let (shift_x, shift_y) = (draw(rng, self.max_shift), draw(rng, self.max_shift));
        let angle = draw(rng, self.max_rotation).to_radians();
        let scale = 1.0 + draw(rng, self.max_scale);
        if (self.max_shift, self.max_rotation, self.max_scale) == (0.0, 0.0, 0.0) {
            out.extend(pixels.iter().map(|value| f32::from(*value)));
            return;
        }

        let (sin, cos) = (angle.sin() / scale, angle.cos() / scale);
        let place = |x: f32, y: f32| {
            let (x, y) = (x - shift_x, y - shift_y);
            (cos * x + sin * y, cos * y - sin * x)
        };
        for channel in pixels.chunks_exact(shape.height * shape.width) {
            warp(channel, shape, place, out);
        }
    }

    /// Brightness, contrast and saturation, in this order.
    fn jitter(&self, values: &mut [f32], shape: PictureShape, rng: &mut StdRng) {
        if self.brightness > 0.0 {
            brighten(values, 1.0 + draw(rng, self.brightness));
        }
        if self.contrast > 0.0 {
            stretch(values, 1.0 + draw(rng, self.contrast));
        }
        if self.saturation > 0.0 && shape.channels == 3 {
            saturate(values, shape, 1.0 + draw(rng, self.saturation));
        }
    }
}

/// Uniform in -limit..=limit; draws nothing for a limit of 0.
fn draw(rng: &mut StdRng, limit: f32) -> f32 {
    if limit > 0.0 {
        rng.random_range(-limit..=limit)
    } else {
        0.0
    }
}

fn random_resized_crop(values: &mut [f32], shape: PictureShape, min_area: f32, rng: &mut StdRng) {
    let (width, height) = (shape.width as f32, shape.height as f32);
    let area = rng.random_range(min_area.min(1.0)..=1.0);
    let limit = (4.0_f32 / 3.0).ln();
    let ratio = rng.random_range(-limit..=limit).exp();
    let side = area.sqrt();
    let (crop_width, crop_height) = (
        (side * ratio.sqrt()).min(1.0) * width,
        (side / ratio.sqrt()).min(1.0) * height,
    );
    let left = rng.random_range(0.0..=1.0) * (width - crop_width);
    let top = rng.random_range(0.0..=1.0) * (height - crop_height);
    for channel in values.chunks_exact_mut(shape.height * shape.width) {
        let source = channel.to_vec();
        for row in 0..shape.height {
            for column in 0..shape.width {
                // Coordinates are those of pixel centres. Beyond the rim, the edge pixels continue.
                let at = |index: usize, count: f32, start: f32, length: f32| {
                    let place = start + (index as f32 + 0.5) * length / count - 0.5;
                    place.clamp(0.0, count - 1.0)
                };
                let x = at(column, width, left, crop_width);
                let y = at(row, height, top, crop_height);
                channel[row * shape.width + column] = bilinear(&source, shape, x, y);
            }
        }
    }
}

fn padded_crop(values: &mut [f32], shape: PictureShape, padding: usize, rng: &mut StdRng) {
    let limit = padding as i64;
    let shift_x = rng.random_range(-limit..=limit);
    let shift_y = rng.random_range(-limit..=limit);
    for channel in values.chunks_exact_mut(shape.height * shape.width) {
        let source = channel.to_vec();
        for row in 0..shape.height as i64 {
            for column in 0..shape.width as i64 {
                let target = row as usize * shape.width + column as usize;
                channel[target] = value_at(&source, shape, row + shift_y, column + shift_x);
            }
        }
    }
}

fn cut_out(values: &mut [f32], shape: PictureShape, side: usize, mean: &[f32], rng: &mut StdRng) {
    let middle = [
        rng.random_range(0..shape.height),
        rng.random_range(0..shape.width),
    ];
    let span = |middle: usize, size: usize| {
        let start = (middle + size).saturating_sub(side / 2);
        // Shifted by `size`, so that it may begin outside.
        start.max(size) - size..(start + side).saturating_sub(size).min(size)
    };
    let plane = shape.height * shape.width;
    for (channel, mean) in values.chunks_exact_mut(plane).zip(mean) {
        for row in span(middle[0], shape.height) {
            let columns = span(middle[1], shape.width);
            let line = &mut channel[row * shape.width..(row + 1) * shape.width];
            line[columns].fill(255.0 * mean);
        }
    }
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
        augmentation.apply(pixels, SHAPE, &[0.5, 0.5], seed, &mut out);
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
            ..Augmentation::NONE
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
            ..Augmentation::NONE
        };
        let out = apply(&turn, &dot(), 1);
        assert!((out[4 * 9 + 4] - 200.0).abs() < 1e-3 && (out[81 + 40] - 100.0).abs() < 1e-3);
    }

    #[test]
    fn a_shift_keeps_the_light_and_moves_it_by_no_more_than_its_limit() {
        let shift = Augmentation {
            max_shift: 2.0,
            ..Augmentation::NONE
        };
        for seed in 0..50 {
            let out = apply(&shift, &dot(), seed);
            assert!((out[..81].iter().sum::<f32>() - 200.0).abs() < 1e-2);
            let beyond = (0..81).filter(|i| (i / 9_i32 - 4).abs() > 2 || (i % 9 - 4).abs() > 2);
            assert!(beyond.into_iter().all(|i| out[i as usize] == 0.0));
        }
    }

    fn ramp() -> Vec<u8> {
        (0..SHAPE.len() as u8).collect()
    }

    #[test]
    fn flips_and_padded_crops_move_whole_pixels() {
        let flip = Augmentation {
            flip: true,
            ..Augmentation::NONE
        };
        let plain: Vec<f32> = ramp().into_iter().map(f32::from).collect();
        let mirrored: Vec<f32> = plain
            .chunks_exact(9)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        let seen: Vec<bool> = (0..40)
            .map(|seed| {
                let out = apply(&flip, &ramp(), seed);
                assert!(out == plain || out == mirrored);
                out == plain
            })
            .collect();
        let kept = seen.iter().filter(|kept| **kept).count();
        assert!((8..=32).contains(&kept), "{kept} of 40 kept");

        let crop = Augmentation {
            padding: 3,
            ..Augmentation::NONE
        };
        let mut shifts = std::collections::HashSet::new();
        for seed in 0..200 {
            let out = apply(&crop, &dot(), seed);
            let lit: Vec<usize> = (0..81).filter(|i| out[*i] > 0.0).collect();
            // At most 3 pixels from the middle (4, 4), so never out of sight.
            let [place] = lit[..] else { panic!("{lit:?}") };
            assert_eq!((out[place], out[81 + place]), (200.0, 100.0));
            shifts.insert((place / 9, place % 9));
        }
        assert!(
            shifts.len() > 40
                && shifts
                    .iter()
                    .all(|(r, c)| (1..8).contains(r) && (1..8).contains(c))
        );
    }

    #[test]
    fn cutout_paints_a_square_with_the_mean() {
        let cut = Augmentation {
            cutout: 4,
            ..Augmentation::NONE
        };
        let bright = vec![255; SHAPE.len()];
        let mut largest = 0;
        for seed in 0..100 {
            let out = apply(&cut, &bright, seed);
            let painted = out[..81].iter().filter(|value| **value == 127.5).count();
            assert!((4..=16).contains(&painted), "{painted}");
            assert_eq!(
                out[..81].iter().filter(|value| **value == 255.0).count(),
                81 - painted
            );
            largest = largest.max(painted);
        }
        assert_eq!(largest, 16);
    }

    #[test]
    fn crops_and_jitter_keep_the_range_and_what_is_plain() {
        let all = Augmentation {
            min_crop_area: 0.3,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.4,
            ..Augmentation::NONE
        };
        for seed in 0..50 {
            let out = apply(&all, &ramp(), seed);
            assert!(out.len() == SHAPE.len() && out.iter().all(|v| (0.0..=255.0).contains(v)));
        }
        // A crop of a single colour has that colour.
        let crop = Augmentation {
            min_crop_area: 0.1,
            ..Augmentation::NONE
        };
        let out = apply(&crop, &[77; 162], 3);
        assert!(out.iter().all(|value| (value - 77.0).abs() < 1e-3));
        // A crop of a ramp along x is a ramp along x.
        let across: Vec<u8> = (0..162).map(|i| 20 * (i % 9) as u8).collect();
        let out = apply(&crop, &across, 4);
        let same = |a: &f32, b: &f32| (a - b).abs() < 1e-3;
        let rows = out[..9].iter().zip(&out[72..81]);
        assert!(out[..9].is_sorted() && rows.into_iter().all(|(a, b)| same(a, b)));
    }
}
