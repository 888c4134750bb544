//! Configurations: presets, errors, round trips.

use burn::config::Config;
use burn::tensor::Device;
use mopteq::perturbation::Perturbation;
use mopteq::{ConfigError, Family, MOptEqsConfig, StemConfig};

#[test]
fn presets_have_the_papers_shape() {
    let device = Device::flex();
    let small = MOptEqsConfig::small(10, 3, [32, 32]);
    assert_eq!(
        (small.branches, small.core.channels, small.core.coupling),
        (3, 32, 0.01)
    );
    assert_eq!((small.perturbation.size, small.finest()), (0.1, [32, 32]));
    // 3 branches of W and U, 3 x 3 x 32 x 32 each, biases, stem, norms, head.
    let convolutions = 3 * (2 * 9 * 32 * 32 + 32);
    let stem = 9 * 3 * 32 + 2 * 32;
    let head = 3 * 2 * 32 + 3 * 16 * 32 * 10 + 10;
    assert_eq!(
        small.init(&device).unwrap().num_parameters(),
        convolutions + stem + head
    );

    let digits = MOptEqsConfig::digits(10, 1, [28, 28]);
    assert_eq!((digits.finest(), digits.core.channels), ([16, 16], 16));
    assert!(digits.init(&device).unwrap().num_parameters() < 30_000);
}

#[test]
fn errors_name_the_field() {
    let small = || MOptEqsConfig::small(10, 3, [32, 32]).map_core(|c| c.with_family(Family::S));
    let cases = [
        (small().with_branches(0), "branches"),
        (small().map_core(|c| c.with_channels(0)), "channels"),
        (small().map_core(|c| c.with_coupling(-0.1)), "coupling"),
        (small().map_core(|c| c.with_coupling(f64::NAN)), "coupling"),
        (small().map_core(|c| c.with_coupling(0.4)), "coupling"),
        (small().map_core(|c| c.with_norm_bound(1.0)), "norm_bound"),
        (
            small().with_perturbation(Perturbation::new().with_size(-1.0)),
            "perturbation.size",
        ),
        (small().with_branches(7), "branches"),
        (small().with_branches(40), "branches"),
        (MOptEqsConfig::small(10, 3, [28, 30]), "branches"),
        (MOptEqsConfig::small(0, 3, [32, 32]), "classes"),
        (
            small().with_stem(StemConfig::new().with_stride(0)),
            "stem.stride",
        ),
        (MOptEqsConfig::small(10, 3, [0, 32]), "input_size"),
        (
            MOptEqsConfig::small(10, 3, [1, 1]).with_stem(StemConfig::new().with_padding(0)),
            "input_size",
        ),
    ];
    for (config, field) in cases {
        let error = config.validate().expect_err(field);
        assert!(error.to_string().contains(&format!("`{field}`")), "{error}");
        let from_init = config.init(&Device::flex()).expect_err(field);
        assert_eq!(from_init.to_string(), error.to_string());
    }
    let error = small().with_branches(7).validate();
    assert!(
        matches!(error, Err(ConfigError::Indivisible { divisor: 64, .. })),
        "{error:?}"
    );
    assert!(
        small()
            .map_core(|c| c.with_family(Family::P).with_norm_bound(0.0))
            .validate()
            .is_err()
    );
    // Family P is strongly convex for every W and every coupling.
    let p = small().map_core(|c| {
        c.with_family(Family::P)
            .with_norm_bound(3.0)
            .with_coupling(0.5)
    });
    assert!(p.validate().is_ok() && p.objective().unwrap().is_strongly_convex());
}

#[test]
fn configurations_survive_json() {
    let config = MOptEqsConfig::digits(10, 1, [28, 28]).map_core(|c| c.with_family(Family::S));
    let path = std::env::temp_dir().join(format!("mopteq-config-{}.json", std::process::id()));
    config.save(&path).unwrap();
    let loaded = MOptEqsConfig::load(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(config, loaded);
}
