//! From the embedded digits to predictions through the libraries, on the CPU and on wgpu.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mopteq_train::RunFolder;
use mopteq_train::TrainConfig;
use mopteq_train::View;
use mopteq_train::data::{DataKind, Pixels};
use mopteq_train::device::{DeviceChoice, select};
use mopteq_train::{Likelihood, Predictor};
use mopteq_train::{Position, Which};
use mopteq_train::{StopFlag, Summary, Task};

/// One test at a time: the CPU's random numbers belong to the whole process, and every new model
/// draws some.
fn alone() -> MutexGuard<'static, ()> {
    static TESTS: Mutex<()> = Mutex::new(());
    TESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn train(folder: &std::path::Path) -> (RunFolder, Summary) {
    let config = TrainConfig {
        epochs: 2,
        limit: Some(1000),
        ..TrainConfig::digits()
    };
    let task = Task::new(config, vec![select(DeviceChoice::CPU).unwrap()]).unwrap();
    let run = RunFolder::create_at(folder).unwrap();
    run.write_config(task.config()).unwrap();
    let stop = StopFlag::default();
    let summary = task
        .train(&run, Position::default(), View::Plain, &stop)
        .unwrap();
    (run, summary)
}

fn test_pictures(count: usize) -> Vec<Pixels> {
    let data = DataKind::Digits.load().unwrap();
    data.test
        .iter()
        .take(count)
        .map(|picture| picture.pixels.clone())
        .collect()
}

#[test]
fn a_trained_run_evaluates_and_predicts_what_its_summary_says() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let (run, summary) = train(&folder.path().join("run"));
    // Ten classes: two epochs of 1,000 pictures teach far more than chance.
    assert!(summary.test_accuracy > 50.0, "{summary:?}");
    assert_eq!(summary.forward_converged, Some(100.0));

    let cpu = select(DeviceChoice::CPU).unwrap();
    let predictor = Predictor::load(&run, Which::Last, cpu, None).unwrap();
    let test = predictor.data().unwrap().test;
    let scores = predictor.evaluate(&test).unwrap();
    assert_eq!(scores.accuracy, summary.test_accuracy);
    assert!((scores.loss - summary.test_loss).abs() < 1e-12);

    let pictures = test_pictures(50);
    let together = predictor.classify(&pictures).unwrap();
    for (picture, ranked) in pictures.iter().zip(&together) {
        let total: f64 = ranked.iter().map(|l| l.probability).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!(ranked.is_sorted_by(|a, b| a.probability >= b.probability));
        // The result does not depend on the rest of the batch.
        let alone = predictor.classify(std::slice::from_ref(picture)).unwrap();
        assert!(difference(&alone[0], ranked) < 1e-4);
    }

    // A loaded model no longer needs its file.
    let cpu = select(DeviceChoice::CPU).unwrap();
    let kept = Predictor::load(&run, Which::Last, cpu, None).unwrap();
    drop(folder);
    let again = kept.classify(&pictures).unwrap();
    assert!(
        again
            .iter()
            .zip(&together)
            .all(|(a, b)| difference(a, b) == 0.0)
    );
}

/// Largest difference between the probabilities of a class.
fn difference(a: &[Likelihood], b: &[Likelihood]) -> f64 {
    let of = |class: &str| b.iter().find(|l| l.class == class).unwrap().probability;
    a.iter()
        .map(|l| (l.probability - of(&l.class)).abs())
        .fold(0.0, f64::max)
}

#[cfg(feature = "wgpu")]
mod wgpu {
    use mopteq_train::Classifier;
    use mopteq_train::EpochRow;
    use mopteq_train::{apply_settings as apply, nested_setting as nested};

    use super::*;

    fn fit(task: &Task, run: &RunFolder, view: View) -> Summary {
        let stop = StopFlag::default();
        task.train(run, Position::default(), view, &stop).unwrap()
    }

    /// A step of the digits takes 304 launches. Before a step of the objective became one launch, a
    /// solver step alone took 30 to 40.
    #[test]
    #[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
    fn wgpu_steps_take_few_launches() {
        let _alone = alone();
        let config = TrainConfig {
            batch_size: 8,
            limit: Some(64),
            ..TrainConfig::digits()
        };
        let data = DataKind::Digits.load().unwrap();
        let device = select(DeviceChoice::WGPU).unwrap();
        let measured = mopteq_train::measure(&config, &data, &device, 1).unwrap();
        let count: usize = measured.launches.iter().map(|kernel| kernel.count).sum();
        assert!((1..=330).contains(&count), "{:?}", measured.launches);
    }

    #[test]
    #[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
    fn wgpu_predicts_what_the_cpu_predicts() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        let (run, _) = train(&folder.path().join("run"));
        let on = |choice| {
            let device = select(choice).unwrap();
            let predictor = Predictor::load(&run, Which::Last, device, None).unwrap();
            predictor.classify(&test_pictures(8)).unwrap()
        };
        // Without bf16, as on Mesa's software Vulkan, such a run can be used, but not trained.
        let config = run.read_config().unwrap();
        let half = nested("model.core.precision", "bf16".into());
        let config = apply(&config, half, "this test").unwrap();
        let wgpu = select(DeviceChoice::WGPU).unwrap();
        Classifier::new(&config, &wgpu.device).unwrap();
        if let Err(error) = wgpu.can_train(&config.model) {
            assert!(error.to_string().contains("--precision bf16"), "{error}");
        }
        for (cpu, wgpu) in on(DeviceChoice::CPU).iter().zip(&on(DeviceChoice::WGPU)) {
            assert!(difference(cpu, wgpu) < 1e-3);
        }
    }

    #[test]
    #[ignore = "needs a Vulkan driver; .ci/run runs it by name on Mesa's software Vulkan"]
    fn wgpu_trains_with_the_losses_of_the_cpu() {
        let _alone = alone();
        let folder = tempfile::tempdir().unwrap();
        // Five steps an epoch, fifty in all.
        let mut config = TrainConfig {
            epochs: 10,
            batch_size: 8,
            limit: Some(40),
            validation_fraction: 0.0,
            ..TrainConfig::digits()
        };
        // Every backend has its own random numbers.
        config.model.mopteqs_mut().unwrap().perturbation.size = 0.0;
        // Training amplifies rounding: a solve that stops a step sooner would be one tolerance apart,
        // and large steps would amplify this further.
        config.learning_rate = 0.005;
        config.equilibria_mut()[0].forward.termination.relative = 1e-5;
        let losses = |choice: DeviceChoice| -> Vec<f64> {
            let mut data = DataKind::Digits.load().unwrap();
            data.test.truncate(8);
            let device = select(choice.clone()).unwrap();
            let task = Task::with_data(config.clone(), data, vec![device]).unwrap();
            let run = RunFolder::create_at(&folder.path().join(choice.to_string())).unwrap();
            fit(&task, &run, View::Silent);
            let history = run.read_history().unwrap();
            let loss = |row: &EpochRow| row.values["train_loss"];
            history.epochs.iter().map(loss).collect()
        };
        let (cpu, wgpu) = (losses(DeviceChoice::CPU), losses(DeviceChoice::WGPU));
        assert_eq!(cpu.len(), 10);
        for (a, b) in cpu.iter().zip(&wgpu) {
            assert!((a - b).abs() < 1e-3, "{cpu:?} {wgpu:?}");
        }
        // They would also be equal if nothing were learnt.
        assert!(cpu[9] < 0.8 * cpu[0], "{cpu:?}");
    }
}
