//! Safetensors in and out.

use burn::tensor::{DType, Device};
use burn_store::{ModuleStore, SafetensorsStore};
use mopteq::multi_view::{MultiViewConfig, View};
use mopteq::{
    HeadConfig, MOptEqsConfig, MdeqConfig, NetworkConfig, ResidualConfig, Weights, WeightsError,
};

use crate::support::{randomised, relative, values};

fn networks() -> Vec<NetworkConfig> {
    let small =
        MOptEqsConfig::digits(4, 1, [12, 12]).map_core(|c| c.with_channels(4).with_hidden(4));
    vec![
        NetworkConfig::MOptEqs(
            small
                .clone()
                .map_core(|c| c.with_cross_branch(true))
                .with_head(HeadConfig::new().with_grid(2).with_dense_classes(2)),
        ),
        NetworkConfig::OptEq(small.clone().single_branch()),
        NetworkConfig::Residual(ResidualConfig::like(&small)),
        NetworkConfig::Mdeq(
            MdeqConfig::new(4, 1, [8, 8], vec![4, 4], vec![1, 2], 6).with_groups(2),
        ),
    ]
}

#[test]
fn every_network_survives_safetensors() {
    let device = Device::flex();
    for config in networks() {
        let [channels, height, width] = config.input_shape();
        let images =
            crate::support::Numbers::new(3).tensor([2, channels, height, width], DType::F32);
        let model = randomised(config.init(&device).unwrap(), DType::F32, 0.3);
        let bytes = model.to_safetensors().unwrap();
        let other = config.init(&device).unwrap();
        let expected = values(model.forward(images.clone()).logits);
        assert!(relative(&values(other.forward(images.clone()).logits), &expected) > 1e-3);
        let other = other.load_safetensors(bytes.clone()).unwrap();
        let found = values(other.forward(images).logits);
        assert_eq!(found, expected, "{}", config.name());

        // A network uses the names of the model that it holds.
        let names = SafetensorsStore::from_bytes(Some(bytes)).keys().unwrap();
        assert!(
            names
                .iter()
                .all(|n| !n.contains("MOptEqs") && !n.contains("Mdeq")),
            "{names:?}"
        );
    }
}

#[test]
fn names_are_those_of_the_documentation() {
    let device = Device::flex();
    let config = MOptEqsConfig::digits(4, 1, [12, 12])
        .with_head(HeadConfig::new().with_grid(2).with_dense_classes(2));
    let model = config
        .map_core(|c| c.with_cross_branch(true))
        .init(&device)
        .unwrap();
    let bytes = model.to_safetensors().unwrap();
    let names = SafetensorsStore::from_bytes(Some(bytes)).keys().unwrap();
    for name in [
        "stem.conv.weight",
        "stem.norm.gamma",
        "stem.norm.running_var",
        "core.kernels.2.weight",
        "core.kernels.0.direction",
        "core.cross.5.kernel.weight",
        "injections.1.bias",
        "head.norms.0.beta",
        "head.linear.weight",
        "head.dense.bias",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
    }
    let views = vec![
        View::Image {
            channels: 1,
            size: [8, 8],
            stride: 1,
            padding: 1,
        },
        View::Vector { length: 3 },
    ];
    let model = MultiViewConfig::new(4, views).init(&device).unwrap();
    let bytes = model.to_safetensors().unwrap();
    let names = SafetensorsStore::from_bytes(Some(bytes.clone()))
        .keys()
        .unwrap();
    for name in [
        "readers.0.stem.conv.weight",
        "readers.1.linear.bias",
        "core.kernels.1.weight",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} of {names:?}");
    }
    assert!(model.load_safetensors(bytes).is_ok());
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let device = Device::flex();
    let config = MOptEqsConfig::digits(4, 1, [12, 12]);
    let bytes = config.init(&device).unwrap().to_safetensors().unwrap();
    let wider = config
        .clone()
        .map_core(|c| c.with_channels(8))
        .init(&device)
        .unwrap();
    let error = wider.load_safetensors(bytes.clone()).unwrap_err();
    assert!(matches!(error, WeightsError::Store(_)), "{error}");
    let deeper = config
        .clone()
        .with_head(HeadConfig::new().with_grid(2).with_dense_classes(3))
        .init(&device)
        .unwrap();
    let error = deeper.load_safetensors(bytes.clone()).unwrap_err();
    assert!(error.to_string().contains("head.dense"), "{error}");
    let dense = config
        .clone()
        .with_head(HeadConfig::new().with_grid(2).with_dense_classes(3))
        .init(&device)
        .unwrap();
    let dense = dense.to_safetensors().unwrap();
    let error = config
        .init(&device)
        .unwrap()
        .load_safetensors(dense)
        .unwrap_err();
    assert!(matches!(error, WeightsError::Unknown(_)), "{error}");
    let error = config
        .init(&device)
        .unwrap()
        .load_safetensors(vec![1, 2, 3])
        .unwrap_err();
    assert!(matches!(error, WeightsError::Store(_)), "{error}");
}

#[test]
fn files_are_written_whole_and_not_overwritten() {
    let device = Device::flex();
    let config = MOptEqsConfig::digits(4, 1, [12, 12]);
    let model = config.init(&device).unwrap();
    let name = format!("mopteq-weights-{}.safetensors", std::process::id());
    let path = std::env::temp_dir().join(name);
    model.write_safetensors(&path).unwrap();
    let read = config.init(&device).unwrap().read_safetensors(&path);
    let again = model.write_safetensors(&path);
    std::fs::remove_file(&path).unwrap();
    let images = crate::support::Numbers::new(3).tensor([2, 1, 12, 12], DType::F32);
    let logits = |m: &mopteq::MOptEqs| values(m.forward(images.clone()).logits);
    assert_eq!(logits(&read.unwrap()), logits(&model));
    assert!(again.is_err());
    assert!(
        config
            .init(&device)
            .unwrap()
            .read_safetensors(&path)
            .is_err()
    );
}
