//! A contact sheet: a few pictures of each class, one row a class.

use image::{Rgb, RgbImage};

use super::{DataError, Picture, PictureShape};

const GAP: usize = 2;

/// Draws the first `columns` pictures of each of the first `rows` classes.
///
/// # Errors
///
/// When a picture cannot be read back from the cache file.
pub fn contact_sheet(
    pictures: &[Picture],
    shape: PictureShape,
    classes: usize,
    columns: usize,
) -> Result<RgbImage, DataError> {
    let (width, height) = (shape.width + GAP, shape.height + GAP);
    let size = [columns * width + GAP, classes * height + GAP];
    let mut sheet = RgbImage::from_pixel(size[0] as u32, size[1] as u32, Rgb([255; 3]));
    let mut seen = vec![0; classes];
    for picture in pictures {
        let Some(column) = seen.get_mut(picture.label).filter(|seen| **seen < columns) else {
            continue;
        };
        let left = GAP + *column * width;
        let top = GAP + picture.label * height;
        *column += 1;
        let pixels = picture.pixels.read();
        let pixels = pixels.map_err(|source| DataError::read("cache file", source))?;
        let plane = shape.height * shape.width;
        for row in 0..shape.height {
            for column in 0..shape.width {
                let value = |channel: usize| {
                    let channel = channel.min(shape.channels - 1);
                    pixels[channel * plane + row * shape.width + column]
                };
                let place = ((left + column) as u32, (top + row) as u32);
                sheet.put_pixel(place.0, place.1, Rgb([value(0), value(1), value(2)]));
            }
        }
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_row_for_each_class() {
        let shape = PictureShape {
            channels: 1,
            height: 3,
            width: 4,
        };
        let picture = |label: usize| Picture::new(vec![10 * (label as u8 + 1); 12], label);
        let pictures = [picture(0), picture(1), picture(1), picture(1)];
        let sheet = contact_sheet(&pictures, shape, 2, 2).unwrap();
        assert_eq!(sheet.dimensions(), (14, 12));
        assert_eq!(sheet.get_pixel(2, 2).0, [10; 3]);
        assert_eq!(sheet.get_pixel(8, 2).0, [255; 3]);
        assert_eq!(sheet.get_pixel(8, 9).0, [20; 3]);
    }
}
