//! MDEQ checkpoints written by PyTorch.
#![cfg(feature = "pytorch")]

use std::path::{Path, PathBuf};

use burn::prelude::*;
use burn_deq::{EquilibriumConfig, Solver};
use burn_store::{ModuleStore, SafetensorsStore, bridge};
use mopteq::MdeqConfig;

use crate::support::values;

fn tensor<const D: usize>(store: &mut SafetensorsStore, name: &str) -> Tensor<D> {
    let tensor = store.get_tensor(name).unwrap().expect(name);
    Tensor::from_data(bridge::to_data(tensor).unwrap(), &Device::flex())
}

/// Logits of an MDEQ read from a checkpoint against PyTorch's.
fn compare(config: &MdeqConfig, checkpoint: &Path, outputs: &Path) {
    let solver = Solver::default().with_relative(1e-6).with_max_steps(100);
    let config = config
        .clone()
        .with_equilibrium(EquilibriumConfig::new().with_forward(solver));
    let model = config.init(&Device::flex()).unwrap().valid();
    let model = model.read_pytorch(checkpoint).unwrap();
    let mut outputs = SafetensorsStore::from_file(outputs);
    let images: Tensor<4> = tensor(&mut outputs, "images");
    let expected = values(tensor::<2>(&mut outputs, "logits"));
    let prediction = model.forward(images);
    assert!(
        prediction.forward.all_converged(),
        "{:?}",
        prediction.forward
    );
    let found = values(prediction.logits);
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-4, "{checkpoint:?}: {a} {b}");
    }
}

fn tiny_mdeq() -> MdeqConfig {
    MdeqConfig::new(10, 3, [8, 8], vec![4, 4], vec![1, 2], 6)
        .with_expansion(2)
        .with_groups(2)
}

#[test]
fn a_pytorch_mdeq_checkpoint_gives_pytorchs_outputs() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let outputs = fixtures.join("mdeq-tiny.outputs.safetensors");
    compare(&tiny_mdeq(), &fixtures.join("mdeq-tiny.pth"), &outputs);

    let wide = tiny_mdeq().with_expansion(3).init(&Device::flex()).unwrap();
    assert!(wide.read_pytorch(&fixtures.join("mdeq-tiny.pth")).is_err());
    let absent = tiny_mdeq().init(&Device::flex()).unwrap();
    assert!(absent.read_pytorch(&fixtures.join("absent.pth")).is_err());
}

/// The checkpoints of `benches/peers/mdeq_checkpoint.py`, if the variable names their folder.
#[test]
fn mdeq_checkpoints_of_a_folder_give_pytorchs_outputs() {
    let Some(folder) = std::env::var_os("MOPTEQ_MDEQ_CHECKPOINT").map(PathBuf::from) else {
        return;
    };
    let deep = MdeqConfig::new(10, 3, [16, 16], vec![8, 8, 16], vec![2, 3, 4], 12)
        .with_expansion(2)
        .with_groups(4)
        .with_halvings(1);
    let all = [
        ("tiny", tiny_mdeq()),
        ("deep", deep),
        ("small", MdeqConfig::small(10, 3, [32, 32])),
    ];
    for (name, config) in all {
        let outputs = folder.join(format!("{name}.outputs.safetensors"));
        for kind in ["pth", "safetensors"] {
            compare(&config, &folder.join(format!("{name}.{kind}")), &outputs);
        }
    }
}
