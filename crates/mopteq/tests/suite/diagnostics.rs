//! Diagnostics and the report on well-posedness, against independent computations.

use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_deq::FixedPointMap;
use mopteq::diagnostics::{agreement, branch_energies, sensitivity, trace};
use mopteq::posedness::{extreme_eigenvalues, well_posedness};
use mopteq::{Branches, Family};

use crate::support::{images, model_f64, point, random_like, relative, tiny, values};

#[test]
fn lanczos_finds_the_ends_of_a_known_spectrum() {
    // A diagonal map, different for every sample.
    let n = 24;
    let diagonal: Vec<f64> = (0..2 * n)
        .map(|i| {
            let (sample, k) = (i / n, i % n);
            let spread = (k as f64) / (n - 1) as f64;
            if sample == 0 {
                -1.0 + 3.0 * spread
            } else {
                5.0 * spread.powi(2)
            }
        })
        .collect();
    let data = TensorData::new(diagonal, [2, 2, 3, 4]);
    let d = Tensor::<4>::from_data(data, (&Device::flex(), DType::F64));
    let like = vec![d.clone()];
    let found = extreme_eigenvalues(|u| vec![u[0].clone() * d.clone()], &like, 40);
    for ((low, high), (a, b)) in found.into_iter().zip([(-1.0, 2.0), (0.0, 5.0)]) {
        assert!(
            (low - a).abs() <= 1e-9 && (high - b).abs() <= 1e-9,
            "{low} {high}"
        );
    }
    // The identity's Krylov space has one dimension.
    let found = extreme_eigenvalues(|u| u, &like, 5);
    assert!(
        found
            .iter()
            .all(|e| (e.0 - 1.0).abs() < 1e-9 && (e.1 - 1.0).abs() < 1e-9)
    );
}

#[test]
fn the_report_bounds_what_iteration_does() {
    for family in [Family::S, Family::P] {
        let model = model_f64(&tiny(family));
        let x = model.context(images(2));
        let z = model.equilibrium(&x).state;
        let report = well_posedness(model.core(), &x, &z, 60);
        let guaranteed = report
            .guaranteed_contraction
            .expect("both families contract");
        assert!(
            report.measured_contraction <= guaranteed + 1e-9,
            "{report:?}"
        );
        assert!(
            report.smallest_eigenvalue >= 1.0 - guaranteed - 1e-9,
            "{report:?}"
        );
        assert!(report.strong_convexity.is_some());
        assert_eq!(report.kernel_norms.len(), 3);
        assert!(
            report
                .kernel_norms
                .iter()
                .all(|n| *n <= report.norm_bound * 1.001)
        );

        // Plain iteration from nearby converges at the measured rate in the end.
        let objective = model.core().objective();
        let mut other: Branches = random_like(&z, 3)
            .into_iter()
            .zip(&z)
            .map(|(d, z)| z.clone() + d * 1e-3)
            .collect();
        let distance = |a: &Branches| relative(&crate::support::flat(a), &crate::support::flat(&z));
        for _ in 0..6 {
            other = objective.apply(other, x.clone());
        }
        let before = distance(&other);
        for _ in 0..4 {
            other = objective.apply(other, x.clone());
        }
        let factor = (distance(&other) / before).powf(0.25);
        assert!(
            factor <= report.measured_contraction + 1e-2,
            "{family:?}: {factor} {report:?}"
        );
    }
}

#[test]
fn the_trace_adds_up_and_falls() {
    for family in [Family::S, Family::P] {
        let config = tiny(family);
        let (z, x) = point(&config, 2);
        let start: Branches = z.iter().map(|z| z.zeros_like()).collect();
        let trace = trace(&config.objective().unwrap(), &x, &start, 30);
        assert_eq!((trace.iterates.len(), trace.terms.len()), (31, 3));
        for pair in trace.iterates.windows(2) {
            assert!(pair[1].objective <= pair[0].objective + 1e-12);
        }
        for record in &trace.iterates {
            let sum: f64 = record.terms.iter().sum();
            assert!((sum - record.objective).abs() <= 1e-10 * sum.abs().max(1.0));
        }
        assert!(trace.iterates[30].residual < 1e-2 * trace.iterates[1].residual);
        // The first record is the start.
        let exact = values(config.objective().unwrap().value(&start, &x).mean())[0];
        assert!((trace.iterates[0].objective - exact).abs() <= 1e-12);
    }
}

#[test]
fn energies_and_agreement_are_what_they_say() {
    let (z, _) = point(&tiny(Family::S), 2);
    let energies = branch_energies(&z);
    for (energy, z) in energies.iter().zip(&z) {
        let exact: f64 = values(z.clone()).iter().map(|v| v * v).sum::<f64>() / 2.0;
        assert!((energy - exact).abs() <= 1e-12 * exact);
    }
    // A branch agrees with its own coarsened version and disagrees with its opposite.
    let coarse = mopteq::scaled_pool(z[0].clone(), 2);
    let pairs = agreement(&vec![z[0].clone(), coarse.clone(), -coarse]);
    let cosines: Vec<f64> = pairs.iter().map(|p| p.cosine).collect();
    assert_eq!(pairs.len(), 3);
    assert!((cosines[0] - 1.0).abs() <= 1e-12 && (cosines[2] + 1.0).abs() <= 1e-12);
}

#[test]
fn sensitivity_is_zero_without_noise_and_grows_with_it() {
    let model = model_f64(&tiny(Family::P));
    let x = model.context(images(8));
    let z = model.equilibrium(&x).state;
    let classify = |z: Branches| model.classify(z);
    assert_eq!(sensitivity(classify, &z, 0.0, 3), 0.0);
    let loud = sensitivity(classify, &z, 30.0, 20);
    assert!(loud > 0.05 && loud <= 1.0, "{loud}");
}
