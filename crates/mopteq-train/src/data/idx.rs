//! IDX, the file format of MNIST and similar data sets: a magic number, sizes, then one byte per
//! value.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;

use super::{Picture, PictureShape};

const LABELS_MAGIC: u32 = 0x0801;
const IMAGES_MAGIC: u32 = 0x0803;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a file is not a usable IDX file. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum IdxError {
    /// The file ends too early, or its gzip stream is damaged.
    #[error("{file}: cannot be read ({source}); get the file again")]
    Read {
        /// The file.
        file: String,
        /// What the reader said.
        source: io::Error,
    },
    /// The magic number is a different one.
    #[error("{file}: not an IDX file of {expected} (magic number {found:#010x})")]
    Magic {
        /// The file.
        file: String,
        /// `pictures` or `labels`.
        expected: &'static str,
        /// The number found.
        found: u32,
    },
    /// The file holds no pictures or no labels.
    #[error("{file}: the file contains no {kind}; the training and the test part need some")]
    Empty {
        /// The file.
        file: String,
        /// `pictures` or `labels`.
        kind: &'static str,
    },
    /// The header's sizes are zero or beyond any memory.
    #[error(
        "{file}: the header gives the sizes {sizes}, which are not possible; get the file again"
    )]
    Sizes {
        /// The file.
        file: String,
        /// The sizes, as `count x height x width`.
        sizes: String,
    },
    /// There are fewer or more values than the header says.
    #[error(
        "{file}: {found} after the header, which promises {expected} bytes; get the file again"
    )]
    Length {
        /// The file.
        file: String,
        /// What was found, in words.
        found: String,
        /// Bytes the header promises.
        expected: usize,
    },
    /// Pictures and labels do not belong together.
    #[error("{images} has {image_count} pictures, but {labels} has {label_count} labels")]
    Count {
        /// File of the pictures.
        images: String,
        /// Number of pictures.
        image_count: usize,
        /// File of the labels.
        labels: String,
        /// Number of labels.
        label_count: usize,
    },
}

/// Reads grey pictures from the bytes of an IDX file, plain or gzipped.
///
/// Returns the shape and the pixels of all pictures, one after the other. `file` is the name that
/// errors give.
///
/// # Errors
///
/// When the bytes are anything but a complete IDX file of pictures.
pub fn read_images(file: &str, bytes: &[u8]) -> Result<(PictureShape, Vec<u8>), IdxError> {
    let ([_, height, width], pixels) = read(file, bytes, IMAGES_MAGIC, "pictures")?;
    Ok((
        PictureShape {
            channels: 1,
            height,
            width,
        },
        pixels,
    ))
}

/// Reads labels from the bytes of an IDX file, plain or gzipped.
///
/// # Errors
///
/// When the bytes are anything but a complete IDX file of labels.
pub fn read_labels(file: &str, bytes: &[u8]) -> Result<Vec<u8>, IdxError> {
    let ([_], labels) = read(file, bytes, LABELS_MAGIC, "labels")?;
    Ok(labels)
}

/// Reads pictures with their labels from two IDX files.
///
/// # Errors
///
/// When one of them is damaged, or they hold different numbers.
pub fn read_pictures(
    images_file: &str,
    images: &[u8],
    labels_file: &str,
    labels: &[u8],
) -> Result<(PictureShape, Vec<Picture>), IdxError> {
    let (shape, pixels) = read_images(images_file, images)?;
    let labels = read_labels(labels_file, labels)?;
    let image_count = pixels.len() / shape.len();
    if image_count != labels.len() {
        return Err(IdxError::Count {
            images: images_file.into(),
            image_count,
            labels: labels_file.into(),
            label_count: labels.len(),
        });
    }
    let pictures = pixels
        .chunks_exact(shape.len())
        .zip(labels)
        .map(|(pixels, label)| Picture::new(pixels.to_vec(), label.into()))
        .collect();
    Ok((shape, pictures))
}

/// Reads a file of `D` dimensions: returns the sizes and the values.
fn read<const D: usize>(
    file: &str,
    bytes: &[u8],
    magic: u32,
    kind: &'static str,
) -> Result<([usize; D], Vec<u8>), IdxError> {
    let mut input: Box<dyn Read + '_> = if bytes.starts_with(&GZIP_MAGIC) {
        Box::new(MultiGzDecoder::new(bytes))
    } else {
        Box::new(bytes)
    };
    let failed = |source| IdxError::Read {
        file: file.into(),
        source,
    };

    let found = read_u32(&mut input).map_err(failed)?;
    if found != magic {
        return Err(IdxError::Magic {
            file: file.into(),
            expected: kind,
            found,
        });
    }
    let mut sizes = [0; D];
    for size in &mut sizes {
        *size = read_u32(&mut input).map_err(failed)? as usize;
    }
    if sizes.first() == Some(&0) {
        let file = file.into();
        return Err(IdxError::Empty { file, kind });
    }
    // Bytes that the header promises, if the sizes are sane: none is zero, and a `Vec` can hold
    // their product.
    let expected = sizes
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size))
        .filter(|product| *product > 0 && *product < isize::MAX as usize)
        .ok_or_else(|| IdxError::Sizes {
            file: file.into(),
            sizes: sizes.map(|size| size.to_string()).join(" x "),
        })?;

    // The vector grows with what is really there, so a lying header cannot exhaust the memory;
    // one byte more than promised is enough to know that there is more.
    let mut values = Vec::new();
    let read = input
        .take(expected as u64 + 1)
        .read_to_end(&mut values)
        .map_err(failed)?;
    if read != expected {
        let found = if read < expected {
            format!("{read} bytes")
        } else {
            "more bytes".into()
        };
        return Err(IdxError::Length {
            file: file.into(),
            found,
            expected,
        });
    }
    Ok((sizes, values))
}

fn read_u32(input: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use std::io::Write;

    fn images(count: u32, height: u32, width: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for word in [IMAGES_MAGIC, count, height, width] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend((0..count * height * width).map(|value| value as u8));
        bytes
    }

    fn labels(values: &[u8]) -> Vec<u8> {
        let mut bytes = LABELS_MAGIC.to_be_bytes().to_vec();
        bytes.extend((values.len() as u32).to_be_bytes());
        bytes.extend(values);
        bytes
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn reads_plain_and_gzipped_alike() {
        let (shape, plain) = read_pictures("i", &images(2, 3, 4), "l", &labels(&[7, 8])).unwrap();
        assert_eq!(
            shape,
            PictureShape {
                channels: 1,
                height: 3,
                width: 4
            }
        );
        let values = |picture: &Picture| picture.pixels.read().unwrap().into_owned();
        assert_eq!(values(&plain[1]), (12..24).collect::<Vec<u8>>());
        assert_eq!((plain[0].label, plain[1].label), (7, 8));
        let (_, gzipped) =
            read_pictures("i", &gzip(&images(2, 3, 4)), "l", &gzip(&labels(&[7, 8]))).unwrap();
        for (plain, gzipped) in plain.iter().zip(&gzipped) {
            assert_eq!(
                (values(plain), plain.label),
                (values(gzipped), gzipped.label)
            );
        }
    }

    #[test]
    fn names_the_file_and_the_fault() {
        let good = images(2, 3, 4);
        let message = |bytes: &[u8]| read_images("digits.gz", bytes).unwrap_err().to_string();
        for fault in [
            message(&[]),
            message(&good[..10]),
            message(&good[..30]),
            message(&[&good[..], &[0]].concat()),
            message(&labels(&[1, 2])),
            message(b"hello, this is text"),
            message(&gzip(&good)[..20]),
            message(&[&IMAGES_MAGIC.to_be_bytes()[..], &[0xff; 12]].concat()),
            message(&images(0, 3, 4)),
        ] {
            assert!(fault.starts_with("digits.gz: "), "{fault}");
        }
        assert!(matches!(
            read_images("f", &good[..30]),
            Err(IdxError::Length { .. })
        ));
        assert!(matches!(
            read_images("f", &labels(&[1])),
            Err(IdxError::Magic { .. })
        ));
        assert!(matches!(
            read_pictures("i", &good, "l", &labels(&[1])),
            Err(IdxError::Count {
                image_count: 2,
                label_count: 1,
                ..
            })
        ));
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(
            header in prop::sample::select(vec![
                vec![], vec![0, 0, 8, 3], vec![0, 0, 8, 1], vec![0, 0, 8, 3, 0, 0, 0],
                vec![0x1f, 0x8b], vec![0x1f, 0x8b, 8, 0],
            ]),
            tail in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [header, tail].concat();
            let _ = read_images("f", &bytes);
            let _ = read_labels("f", &bytes);
        }

        #[test]
        fn every_truncation_is_an_error(cut in 0_usize..100, zipped: bool) {
            let whole = if zipped { gzip(&images(4, 5, 6)) } else { images(4, 5, 6) };
            let end = whole.len() * cut / 100;
            prop_assert!(read_images("f", &whole[..end]).is_err());
        }
    }
}
