//! 5,000 MNIST digits as gzipped IDX files inside the program.
//!
//! README.md describes the parts and their order; LICENSE-DATA.md names the terms.

/// An IDX file: its name and its gzipped bytes.
pub type File = (&'static str, &'static [u8]);

macro_rules! embedded {
    ($name:literal) => {
        ($name, include_bytes!($name))
    };
}

/// 4,000 training pictures of 28 x 28 pixels.
pub const TRAIN_IMAGES: File = embedded!("train-images-idx3-ubyte.gz");
/// Labels of the training pictures.
pub const TRAIN_LABELS: File = embedded!("train-labels-idx1-ubyte.gz");
/// 1,000 test pictures of 28 x 28 pixels.
pub const TEST_IMAGES: File = embedded!("test-images-idx3-ubyte.gz");
/// Labels of the test pictures.
pub const TEST_LABELS: File = embedded!("test-labels-idx1-ubyte.gz");
