//! CIFAR-100 with the network of the preset deep, twelve equilibria, in Burn's `Learner`.
//!
//! cargo run --release -p examples --features learner --example cifar100 -- --data PATH
//!
//! PATH is the official archive or folder, or a folder of pictures. Without it, the data are those of
//! `mopteq data get cifar100`. Further options: --device cuda (with `--features
//! learner,mopteq-train/cuda`), --epochs 4, --limit 2000. The training is in `photographs.rs`.

use examples::photographs::train;
use mopteq_train::Preset;
use mopteq_train::data::DataKind;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    train(DataKind::Cifar100, Preset::Deep)
}
