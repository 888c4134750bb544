//! The embedded digits, inside the program so that it runs from anywhere.

use mopteq_digits::{File, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS};

use super::{DataError, DataSet, Picture, PictureShape, idx::read_pictures};

const CLASSES: usize = 10;

pub(super) fn load() -> Result<DataSet, DataError> {
    let (shape, train) = part(TRAIN_IMAGES, TRAIN_LABELS)?;
    let (test_shape, test) = part(TEST_IMAGES, TEST_LABELS)?;
    if shape != test_shape {
        let text = |shape: PictureShape| format!("{} x {}", shape.height, shape.width);
        return Err(DataError::Shape {
            file: TEST_IMAGES.0.into(),
            found: text(test_shape),
            expected: text(shape),
        });
    }
    let classes = (0..CLASSES).map(|digit| digit.to_string()).collect();
    Ok(DataSet {
        part: Some("test".into()),
        ..DataSet::new(shape, classes, train, test)
    })
}

fn part(images: File, labels: File) -> Result<(PictureShape, Vec<Picture>), DataError> {
    let (shape, pictures) = read_pictures(images.0, images.1, labels.0, labels.1)?;
    match pictures.iter().position(|picture| picture.label >= CLASSES) {
        None => Ok((shape, pictures)),
        Some(index) => Err(DataError::Label {
            file: labels.0.into(),
            index,
            label: pictures[index].label,
            classes: CLASSES,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_promised_counts_and_order() {
        let data = load().unwrap();
        assert_eq!(
            data.shape,
            PictureShape {
                channels: 1,
                height: 28,
                width: 28
            }
        );
        assert_eq!((data.train.len(), data.test.len()), (4000, 1000));
        for (part, each) in [(&data.train, 400), (&data.test, 100)] {
            for class in 0..CLASSES {
                assert_eq!(
                    part.iter().filter(|picture| picture.label == class).count(),
                    each
                );
            }
            assert!(
                part.iter()
                    .enumerate()
                    .all(|(i, picture)| picture.label == i % CLASSES)
            );
        }
    }
}
