//! From the embedded digits to predictions through the libraries, on the CPU and on wgpu.

use std::sync::Arc;

use mopteq_train::checkpoint::Which;
use mopteq_train::config::TrainConfig;
use mopteq_train::data::DataKind;
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::predict::{Likelihood, Predictor};
use mopteq_train::progress::View;
use mopteq_train::run::RunFolder;
use mopteq_train::train::{Summary, Task};

fn train(folder: &std::path::Path) -> (RunFolder, Summary) {
    let config = TrainConfig {
        epochs: 2,
        limit: Some(1000),
        ..TrainConfig::preset(DataKind::Digits)
    };
    let task = Task::new(config, select(DeviceChoice::Cpu).unwrap()).unwrap();
    let run = RunFolder::create_at(folder).unwrap();
    run.write_config(task.config()).unwrap();
    let summary = task.train(&run, 0, View::Plain).unwrap();
    (run, summary)
}

fn test_pictures(count: usize) -> Vec<Arc<[u8]>> {
    let data = DataKind::Digits.load().unwrap();
    data.test
        .iter()
        .take(count)
        .map(|picture| picture.pixels.clone())
        .collect()
}

#[test]
fn a_trained_run_evaluates_and_predicts_what_its_summary_says() {
    let folder = tempfile::tempdir().unwrap();
    let (run, summary) = train(&folder.path().join("run"));
    // Ten classes: two epochs of 1,000 pictures teach far more than chance.
    assert!(summary.test_accuracy > 50.0, "{summary:?}");
    assert_eq!(summary.forward_converged, Some(100.0));

    let cpu = select(DeviceChoice::Cpu).unwrap();
    let predictor = Predictor::load(&run, Which::Last, cpu).unwrap();
    let scores = predictor.evaluate().unwrap();
    assert_eq!(scores.accuracy(), summary.test_accuracy);
    assert_eq!(scores.loss, summary.test_loss);

    let pictures = test_pictures(50);
    let together = predictor.classify(&pictures).unwrap();
    for (picture, ranked) in pictures.iter().zip(&together) {
        let total: f64 = ranked.iter().map(|l| l.probability).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!(ranked.is_sorted_by(|a, b| a.probability >= b.probability));
        // Whatever else is in the batch.
        let alone = predictor.classify(std::slice::from_ref(picture)).unwrap();
        assert!(difference(&alone[0], ranked) < 1e-4);
    }
}

/// Largest difference between the probabilities of a class.
fn difference(a: &[Likelihood], b: &[Likelihood]) -> f64 {
    let of = |class: &str| b.iter().find(|l| l.class == class).unwrap().probability;
    a.iter()
        .map(|l| (l.probability - of(&l.class)).abs())
        .fold(0.0, f64::max)
}

#[test]
#[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
fn wgpu_predicts_what_the_cpu_predicts() {
    let folder = tempfile::tempdir().unwrap();
    let (run, _) = train(&folder.path().join("run"));
    let on = |choice| {
        let device = select(choice).unwrap();
        let predictor = Predictor::load(&run, Which::Last, device).unwrap();
        predictor.classify(&test_pictures(8)).unwrap()
    };
    for (cpu, wgpu) in on(DeviceChoice::Cpu).iter().zip(&on(DeviceChoice::Wgpu)) {
        assert!(difference(cpu, wgpu) < 1e-3);
    }
}
