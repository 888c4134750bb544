//! From the bytes of a picture file to the values that a model takes.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Rgba, RgbaImage};

use super::{DataError, PictureShape};

/// Decodes a picture: orientation applied, transparent parts on white, scaled so that it covers
/// the shape and cropped in the middle, grey or RGB as the shape has channels.
///
/// `file` is the name that errors give.
///
/// # Errors
///
/// When the bytes are no picture that can be read.
pub fn decode(file: &str, bytes: &[u8], shape: PictureShape) -> Result<Vec<u8>, DataError> {
    let mut picture = open(file, bytes)?;
    if picture.color().has_alpha() {
        picture = on_white(&picture);
    }
    let (width, height) = (shape.width as u32, shape.height as u32);
    if (picture.width(), picture.height()) != (width, height) {
        picture = picture.resize_to_fill(width, height, FilterType::Triangle);
    }
    Ok(if shape.channels == 1 {
        picture.to_luma8().into_raw()
    } else {
        let rgb = picture.to_rgb8();
        // From pixel after pixel to channel after channel.
        (0..3)
            .flat_map(|channel| rgb.pixels().map(move |pixel| pixel.0[channel]))
            .collect()
    })
}

/// Reads and decodes a picture file; `invert` turns dark on light into light on dark.
///
/// # Errors
///
/// When the file cannot be read or is no picture.
pub fn decode_file(path: &Path, shape: PictureShape, invert: bool) -> Result<Vec<u8>, DataError> {
    let bytes = fs::read(path).map_err(|source| DataError::read(path, source))?;
    let mut values = decode(&path.display().to_string(), &bytes, shape)?;
    if invert {
        values.iter_mut().for_each(|value| *value = 255 - *value);
    }
    Ok(values)
}

/// Width, height and whether it is grey, from the head of the file.
pub(super) fn probe(bytes: &[u8]) -> Option<(usize, usize, bool)> {
    // By the content and not by the name, which may be wrong.
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let decoder = reader.ok()?.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let grey = !decoder.color_type().has_color();
    Some((width as usize, height as usize, grey))
}

fn open(file: &str, bytes: &[u8]) -> Result<DynamicImage, DataError> {
    let read = || -> image::ImageResult<DynamicImage> {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    };
    // A picture without extent has nothing to scale.
    match read() {
        Ok(picture) if picture.width() > 0 && picture.height() > 0 => Ok(picture),
        Ok(_) => Err("it has no pixels".to_owned()),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|reason| DataError::NotAPicture {
        file: file.into(),
        reason,
    })
}

fn on_white(picture: &DynamicImage) -> DynamicImage {
    let white = Rgba([255, 255, 255, 255]);
    let mut canvas = RgbaImage::from_pixel(picture.width(), picture.height(), white);
    image::imageops::overlay(&mut canvas, &picture.to_rgba8(), 0, 0);
    DynamicImage::ImageRgba8(canvas).to_rgb8().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, Luma, RgbImage};

    const GREY: PictureShape = PictureShape {
        channels: 1,
        height: 4,
        width: 4,
    };

    fn png(picture: DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn reads_grey_colour_and_transparency() {
        let grey = png(GrayImage::from_pixel(8, 6, Luma([40])).into());
        assert_eq!(decode("a", &grey, GREY).unwrap(), [40; 16]);
        assert_eq!(probe(&grey), Some((8, 6, true)));

        let colour = png(RgbImage::from_pixel(4, 4, image::Rgb([10, 20, 30])).into());
        let rgb = PictureShape {
            channels: 3,
            ..GREY
        };
        let expected = [[10; 16], [20; 16], [30; 16]].concat();
        assert_eq!(decode("b", &colour, rgb).unwrap(), expected);

        let clear = png(RgbaImage::from_pixel(4, 4, Rgba([9, 9, 9, 0])).into());
        assert_eq!(decode("c", &clear, GREY).unwrap(), [255; 16]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let whole = png(GrayImage::from_pixel(8, 6, Luma([40])).into());
        for bytes in [&b"this is text"[..], &[], &whole[..whole.len() / 2]] {
            let message = decode("odd.png", bytes, GREY).unwrap_err().to_string();
            assert!(message.starts_with("odd.png: not a picture"), "{message}");
        }
    }
}
