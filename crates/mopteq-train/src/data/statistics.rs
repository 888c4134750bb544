//! Constants of the normalisation, computed from the training pictures.

use rayon::prelude::*;

use super::{DataError, Normalisation, Picture, PictureShape};

/// A standard deviation below this would amplify noise; that of a channel of one colour is 0.
const SMALLEST: f64 = 1.0 / 255.0;

/// Mean and standard deviation of each channel over all pictures, on the scale 0 to 1, rounded to
/// four decimals as published constants are.
///
/// # Errors
///
/// When a picture cannot be read back from the cache file.
pub fn normalisation(
    pictures: &[Picture],
    shape: PictureShape,
) -> Result<Normalisation, DataError> {
    let plane = shape.height * shape.width;
    // Sums of integers: the result does not depend on the order of the threads.
    let sums = pictures
        .par_iter()
        .map(|picture| {
            let values = picture
                .pixels
                .read()
                .map_err(|source| DataError::read("cache file", source))?;
            let sums = values.chunks_exact(plane).map(|channel| {
                channel.iter().fold([0_u64; 2], |[sum, squares], value| {
                    let value = u64::from(*value);
                    [sum + value, squares + value * value]
                })
            });
            Ok::<_, DataError>(sums.collect::<Vec<_>>())
        })
        .try_reduce(
            || vec![[0; 2]; shape.channels],
            |mut a, b| {
                for (a, b) in a.iter_mut().zip(b) {
                    *a = [a[0] + b[0], a[1] + b[1]];
                }
                Ok(a)
            },
        )?;
    let count = (pictures.len() * plane).max(1) as f64;
    let rounded = |value: f64| ((value * 1e4).round() / 1e4) as f32;
    let moments = sums.iter().map(|[sum, squares]| {
        let mean = *sum as f64 / count / 255.0;
        let variance = *squares as f64 / count / (255.0 * 255.0) - mean * mean;
        (
            rounded(mean),
            rounded(variance.max(0.0).sqrt().max(SMALLEST)),
        )
    });
    let (mean, std) = moments.unzip();
    Ok(Normalisation { mean, std })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_that_of_the_channels() {
        let shape = PictureShape {
            channels: 2,
            height: 1,
            width: 2,
        };
        let picture = |values: [u8; 4]| Picture::new(values.to_vec(), 0);
        let found = normalisation(
            &[picture([0, 255, 51, 51]), picture([255, 0, 51, 51])],
            shape,
        )
        .unwrap();
        assert_eq!(found.mean, [0.5, 0.2]);
        assert_eq!(found.std, [0.5, 0.0039]);
    }
}
