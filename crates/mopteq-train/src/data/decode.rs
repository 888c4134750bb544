//! From the bytes of a picture file to the values that a model takes.

use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::path::Path;

use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Rgb, RgbImage, Rgba, RgbaImage};

use super::entries::not_read;
use super::jpeg::{is_cut_off, is_damaged};
use super::{DataError, PictureShape};
use crate::files::is_drawn;

/// Bytes at the start of a file in which its head is looked for before all of it is read.
const HEAD: u64 = 256 << 10;
/// Pictures that would take more bytes than this are not decoded: a small file may claim any size.
const LARGEST: u64 = 1 << 30;
/// A picture whose aspect ratio exceeds that of the shape this many times is cropped before
/// scaling.
const LONG: u64 = 8;

/// Decodes a picture: orientation applied, transparent parts on white, scaled so that it covers
/// the shape and cropped in the middle, grey or RGB as the shape has channels.
///
/// `file` is the name that errors give.
///
/// # Errors
///
/// When the bytes are not a picture that can be read.
pub fn decode(file: &str, bytes: &[u8], shape: PictureShape) -> Result<Vec<u8>, DataError> {
    decode_within(file, bytes, shape, u64::MAX)
}

/// The same for a picture of at most `most` pixels. Larger ones are refused by their head.
///
/// # Errors
///
/// As [`decode`], and when the picture has more.
pub(crate) fn decode_within(
    file: &str,
    bytes: &[u8],
    shape: PictureShape,
    most: u64,
) -> Result<Vec<u8>, DataError> {
    Ok(fit(open(file, bytes, most)?, shape))
}

/// Brings values of one shape to another, as [`decode`] does with a file.
pub(super) fn reshape(values: &[u8], from: PictureShape, to: PictureShape) -> Vec<u8> {
    if from == to {
        return values.to_vec();
    }
    let plane = from.height * from.width;
    let picture = RgbImage::from_fn(from.width as u32, from.height as u32, |x, y| {
        let place = y as usize * from.width + x as usize;
        let value = |channel: usize| {
            let index = channel.min(from.channels - 1) * plane + place;
            values.get(index).copied().unwrap_or(0)
        };
        Rgb([value(0), value(1), value(2)])
    });
    fit(picture.into(), to)
}

fn fit(mut picture: DynamicImage, shape: PictureShape) -> Vec<u8> {
    if picture.color().has_alpha() {
        picture = on_white(&picture);
    }
    let (width, height) = (shape.width as u32, shape.height as u32);
    if (picture.width(), picture.height()) != (width, height) {
        picture = without_ends(picture, width, height);
        picture = picture.resize_to_fill(width, height, FilterType::Triangle);
    }
    if shape.channels == 1 {
        return picture.to_luma8().into_raw();
    }
    let rgb = picture.to_rgb8();
    // From pixel after pixel to channel after channel.
    (0..3)
        .flat_map(|channel| rgb.pixels().map(move |pixel| pixel.0[channel]))
        .collect()
}

/// The middle of a very long picture. Scaled as a whole, a strip of 1 x 60,000 pixels would fill
/// the memory, and the crop afterwards leaves only its middle.
fn without_ends(picture: DynamicImage, width: u32, height: u32) -> DynamicImage {
    let (w, h) = (u64::from(picture.width()), u64::from(picture.height()));
    let (width, height) = (u64::from(width), u64::from(height));
    // Twice what the crop leaves, so that its edges are filtered as before.
    let keep = |long: u64, across: u64, share: u64, of: u64| {
        let kept = (2 * across * share).div_ceil(of).min(long);
        (((long - kept) / 2) as u32, kept as u32)
    };
    if w * height > LONG * h * width {
        let (left, kept) = keep(w, h, width, height);
        picture.crop_imm(left, 0, kept, h as u32)
    } else if h * width > LONG * w * height {
        let (top, kept) = keep(h, w, height, width);
        picture.crop_imm(0, top, w as u32, kept)
    } else {
        picture
    }
}

/// Reads and decodes a picture file; `invert` turns dark on light into light on dark.
///
/// # Errors
///
/// When the file cannot be read or is not a picture.
pub fn decode_file(path: &Path, shape: PictureShape, invert: bool) -> Result<Vec<u8>, DataError> {
    let no_picture = |reason: &str| DataError::NotAPicture {
        file: path.display().to_string(),
        reason: reason.into(),
    };
    let found = fs::metadata(path).map_err(|source| DataError::read(path, source))?;
    if found.is_dir() {
        return Err(no_picture("it is a folder; name one of the files in it"));
    }
    // Reading from a pipe might never end.
    if !found.is_file() {
        return Err(no_picture("it is no regular file"));
    }
    let bytes = fs::read(path).map_err(|source| DataError::read(path, source))?;
    let mut values = decode(&path.display().to_string(), &bytes, shape)?;
    if invert {
        values.iter_mut().for_each(|value| *value = 255 - *value);
    }
    Ok(values)
}

/// What the head of a picture tells before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Height and width as the picture is seen, its orientation applied.
    pub(super) size: [usize; 2],
    /// Whether it has no colour.
    pub(super) grey: bool,
}

/// The head of a picture; `None` if it cannot be read, or if this program drew it.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    if is_drawn(bytes) {
        return None;
    }
    // By the content and not by the name, which may be wrong.
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format();
    let mut decoder = reader.ok()?.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let lies = matches!(
        decoder.orientation().ok()?,
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let size = [height as usize, width as usize];
    Some(Head {
        size: if lies { [size[1], size[0]] } else { size },
        grey: !decoder.color_type().has_color(),
    })
}

/// The head of a picture file.
pub(super) fn head_of_file(path: &Path) -> Option<Head> {
    let mut file = File::open(path).ok()?;
    let mut bytes = Vec::new();
    (&mut file).take(HEAD).read_to_end(&mut bytes).ok()?;
    // WebP has its orientation at the end.
    let at_the_start = !bytes.starts_with(b"RIFF") && (bytes.len() as u64) == HEAD;
    let found = if at_the_start { head(&bytes) } else { None };
    found.or_else(|| {
        file.read_to_end(&mut bytes).ok()?;
        head(&bytes)
    })
}

/// Whether a file that begins like this is a picture, whatever its name. This does not recognise
/// BMP, which begins with two letters, as a text may.
pub(super) fn looks_like_a_picture(start: &[u8]) -> bool {
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
    ];
    image::guess_format(start).is_ok_and(|format| formats.contains(&format))
}

fn open(file: &str, bytes: &[u8], most: u64) -> Result<DynamicImage, DataError> {
    let mut too_many = None;
    let mut read = || -> image::ImageResult<DynamicImage> {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let mut decoder = reader.into_decoder()?;
        let orientation = decoder.orientation()?;
        let (width, height) = decoder.dimensions();
        if u64::from(width) * u64::from(height) > most {
            let reason = format!("it has {width} x {height} pixels, more than the {most} allowed");
            too_many = Some(reason);
            let kind = image::error::LimitErrorKind::DimensionError;
            return Err(image::ImageError::Limits(
                image::error::LimitError::from_kind(kind),
            ));
        }
        if decoder.total_bytes() > LARGEST {
            let kind = image::error::LimitErrorKind::DimensionError;
            return Err(image::ImageError::Limits(
                image::error::LimitError::from_kind(kind),
            ));
        }
        let mut picture = DynamicImage::from_decoder(decoder)?;
        picture.apply_orientation(orientation);
        Ok(picture)
    };
    let found = read();
    if let Some(reason) = too_many {
        let file = file.into();
        return Err(DataError::NotAPicture { file, reason });
    }
    // A picture without extent has nothing to scale.
    match found {
        _ if is_cut_off(bytes) => Err("it is cut off: a part of it is missing".to_owned()),
        Ok(_) if is_damaged(bytes) => Err("a part of it is missing or damaged".to_owned()),
        Ok(picture) if picture.width() > 0 && picture.height() > 0 => Ok(picture),
        Ok(_) => Err("it has no pixels".to_owned()),
        Err(error) => Err(error.to_string()),
    }
    .map_err(|reason| DataError::NotAPicture {
        file: file.into(),
        // The name may say more than the content.
        reason: not_read(Path::new(file)).unwrap_or(reason),
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
        let found = head(&grey).unwrap();
        assert_eq!((found.size, found.grey), ([6, 8], true));

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

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let noise = RgbImage::from_fn(40, 30, |x, y| {
            Rgb([
                (x * 37 + y * 91) as u8,
                (x * x + 3 * y) as u8,
                (7 * x * y) as u8,
            ])
        });
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(noise)
            .write_to(&mut bytes, format)
            .unwrap();
        bytes.into_inner()
    }

    #[test]
    fn a_picture_that_is_cut_off_anywhere_is_damaged() {
        for format in [
            ImageFormat::Png,
            ImageFormat::Jpeg,
            ImageFormat::Bmp,
            ImageFormat::Gif,
            ImageFormat::WebP,
        ] {
            let whole = encoded(format);
            decode("whole", &whole, GREY).unwrap();
            for share in [1, 25, 50, 75, 95] {
                let cut = &whole[..whole.len() * share / 100];
                assert!(decode("cut", cut, GREY).is_err(), "{format:?}: {share} %");
            }
        }
        // The end of an embedded preview is not that of the picture.
        let whole = encoded(ImageFormat::Jpeg);
        let mut preview = vec![0xff, 0xe2];
        preview.extend((whole.len() as u16 + 2).to_be_bytes());
        preview.extend(&whole);
        let with_preview = [&whole[..2], &preview, &whole[2..]].concat();
        let values = decode("preview", &with_preview, GREY).unwrap();
        assert_eq!(values, decode("whole", &whole, GREY).unwrap());
        let half = with_preview.len() - whole.len() / 2;
        let error = decode("cut.jpg", &with_preview[..half], GREY).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
        // What some cameras write after the end does no harm.
        let longer = [&whole[..], b"more"].concat();
        decode("longer", &longer, GREY).unwrap();
    }

    #[test]
    fn pictures_of_any_shape_are_scaled_in_little_memory() {
        for (width, height) in [(1, 60_000), (60_000, 1), (1, 1), (300, 2)] {
            let bytes = png(GrayImage::from_pixel(width, height, Luma([77])).into());
            assert_eq!(decode("long", &bytes, GREY).unwrap(), [77; 16]);
        }
        // Only the middle is left.
        let half = GrayImage::from_fn(4000, 4, |x, _| Luma([if x < 2000 { 0 } else { 255 }]));
        let values = decode("half", &png(half.into()), GREY).unwrap();
        assert!(
            values.chunks(4).all(|row| row[0] == 0 && row[3] == 255),
            "{values:?}"
        );
        // The limit applies to pixels, not to bytes.
        let wide = png(GrayImage::new(30, 4).into());
        assert_eq!(decode_within("wide", &wide, GREY, 120).unwrap(), [0; 16]);
        let error = decode_within("wide", &wide, GREY, 119).unwrap_err();
        assert!(error.to_string().contains("30 x 4 pixels"), "{error}");
        // A small file that claims to be large.
        let mut bytes = png(GrayImage::new(1, 1).into());
        bytes[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
        assert!(decode("large", &bytes, GREY).is_err());
    }

    #[test]
    fn values_are_brought_to_another_shape_as_files_are() {
        let picture = RgbImage::from_fn(8, 4, |x, y| Rgb([x as u8 * 30, y as u8 * 60, 9]));
        let from = PictureShape {
            channels: 3,
            height: 4,
            width: 8,
        };
        let bytes = png(picture.into());
        let values = decode("a", &bytes, from).unwrap();
        let to = PictureShape {
            channels: 3,
            height: 2,
            width: 2,
        };
        for to in [GREY, to] {
            assert_eq!(reshape(&values, from, to), decode("a", &bytes, to).unwrap());
        }
        let grey = reshape(&[1, 2, 3, 4], PictureShape { channels: 1, ..to }, to);
        assert_eq!(grey, [1, 2, 3, 4].repeat(3));
    }

    #[test]
    fn the_head_of_a_file_is_that_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP] {
            fs::write(&path, encoded(format)).unwrap();
            assert_eq!(head_of_file(&path), head(&encoded(format)), "{format:?}");
        }
        // Longer than what is read at first.
        let noise = RgbImage::from_fn(400, 300, |x, y| Rgb([((x * y * 7919) >> 5) as u8; 3]));
        noise.save_with_format(&path, ImageFormat::Bmp).unwrap();
        assert_eq!(head_of_file(&path).unwrap().size, [300, 400]);
        let text = [&b"text "[..]; 100_000].concat();
        fs::write(&path, text).unwrap();
        assert_eq!(head_of_file(&path), None);
    }
}
