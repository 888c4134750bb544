//! Constraints against the definition of the proximal map.

use burn::tensor::{DType, Device, Tensor, TensorData};
use mopteq::{Branches, Constraint, Proximal};
use proptest::prelude::*;

use crate::support::{flat, values};

fn state(v: &[f64]) -> Branches {
    let data = TensorData::new(v.to_vec(), [1, 1, 1, v.len()]);
    vec![Tensor::from_data(data, (&Device::flex(), DType::F64))]
}

fn constraints() -> impl Strategy<Value = Constraint> {
    prop_oneof![
        Just(Constraint::NonNegative),
        (-2.0..0.0f64, 0.1..2.0f64).prop_map(|(low, high)| Constraint::Interval { low, high }),
        (0.0..2.0f64).prop_map(|weight| Constraint::L1 { weight }),
        (0.0..2.0f64).prop_map(|weight| Constraint::Sparse { weight }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// prox(v) = argmin step r(u) + 1/2 |u - v|^2: no other point is lower.
    #[test]
    fn prox_is_the_minimiser(
        constraint in constraints(),
        v in prop::collection::vec(-3.0..3.0f64, 6),
        moves in prop::collection::vec(-1.0..1.0f64, 6 * 20),
        step in 0.1..2.0f64,
    ) {
        let objective = |u: &[f64]| {
            let r = values(constraint.value(&state(u)))[0];
            step * r + 0.5 * u.iter().zip(&v).map(|(u, v)| (u - v).powi(2)).sum::<f64>()
        };
        let u = flat(&constraint.prox(state(&v), step));
        let least = objective(&u);
        prop_assert!(least.is_finite());
        for (k, change) in moves.chunks(6).enumerate() {
            let size = 10f64.powi(-((k % 5) as i32));
            let other: Vec<f64> = u.iter().zip(change).map(|(u, c)| u + size * c).collect();
            prop_assert!(objective(&other) >= least - 1e-12);
        }
    }

    /// The mask is the derivative of the proximal map, away from its kinks.
    #[test]
    fn masks_are_derivatives(
        constraint in constraints(),
        v in prop::collection::vec(-3.0..3.0f64, 6),
        step in 0.1..2.0f64,
    ) {
        let h = 1e-6;
        let at = |h: f64| {
            let moved: Vec<f64> = v.iter().map(|v| v + h).collect();
            flat(&constraint.prox(state(&moved), step))
        };
        let mask = flat(&constraint.mask(&state(&v), step));
        for ((up, down), m) in at(h).into_iter().zip(at(-h)).zip(mask) {
            let slope = (up - down) / (2.0 * h);
            let kink = (slope - slope.round()).abs() > 1e-6;
            prop_assert!(kink || (slope - m).abs() <= 1e-6, "{} {}", slope, m);
            prop_assert!(m == 0.0 || m == 1.0);
        }
    }
}

#[test]
fn values_are_infinite_outside_of_the_domain() {
    let value = |c: Constraint, v: &[f64]| values(c.value(&state(v)))[0];
    let interval = Constraint::Interval {
        low: -1.0,
        high: 1.0,
    };
    assert_eq!(value(Constraint::NonNegative, &[0.0, 2.0]), 0.0);
    assert_eq!(value(Constraint::NonNegative, &[-0.1, 2.0]), f64::INFINITY);
    assert_eq!(value(interval, &[-1.0, 1.0]), 0.0);
    assert_eq!(value(interval, &[0.0, 1.1]), f64::INFINITY);
    assert_eq!(value(Constraint::L1 { weight: 2.0 }, &[-1.0, 0.5]), 3.0);
}
