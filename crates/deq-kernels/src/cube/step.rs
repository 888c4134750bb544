//! A step of an objective on packed states.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use super::launch::{CubeStep, Setup};
use super::plan::{Formula, Job, Plan};
use super::tensors::{elements, flat, limits, plain, rows};
use crate::formula::{Finish, Kernel, StepFormula};
use crate::gradient::custom_gradient;
use crate::inputs::Inputs;

/// A formula with its inputs on a device.
struct Bound<'a> {
    setup: Setup,
    weights: &'a Tensor<1>,
    injections: &'a Tensor<2>,
}

impl<'a> Bound<'a> {
    fn new(formula: &StepFormula, x: Inputs<'a>) -> Option<Self> {
        if formula.kernel == Kernel::Gram {
            return None;
        }
        let prepared = &x.prepared.cube;
        let sizes = || -> Vec<[usize; 2]> {
            let sizes = x.injections.iter().map(|c| [c.dims()[2], c.dims()[3]]);
            sizes.collect()
        };
        let (plan, weights) = prepared
            .kernels
            .get_or_init(|| {
                let all = || x.kernels.iter().chain(x.injections);
                let limits = limits(&x.kernels.first()?.device().without_autodiff())?;
                if all().any(|t| t.dtype() != DType::F32) {
                    return None;
                }
                let kernels: Vec<_> = x.kernels.iter().map(Tensor::dims).collect();
                let plan = Arc::new(Plan::new(&kernels, &sizes(), &limits)?);
                let natural = flat(&plain(x.kernels), elements, 0);
                let weights = CubeStep::lay_out(natural, &plan);
                Some((plan, weights))
            })
            .as_ref()?;
        let batch = x.injections.first()?.dims()[0];
        let fits = |(c, kernel): (&Tensor<4>, &Tensor<4>)| {
            let injected = if formula.injects_into_state() { 1 } else { 0 };
            c.dims()[..2] == [batch, kernel.dims()[injected]]
        };
        // The second dimension of the grid of cubes is the sample.
        let counted = (1..=usize::from(u16::MAX)).contains(&batch);
        let branches = x.injections.iter().zip(x.kernels);
        let coupled = formula.couplings.is_empty()
            || plan
                .branches
                .windows(2)
                .all(|w| w[0].channels == w[1].channels);
        if !counted || !branches.into_iter().all(fits) || !formula.fits(&sizes()) || !coupled {
            return None;
        }
        let injections = prepared
            .injections
            .get_or_init(|| flat(&plain(x.injections), rows, 1));
        Some(Self {
            setup: Setup {
                formula: Arc::new(Formula::new(formula, plan)),
                plan: plan.clone(),
                job: Job::Step,
            },
            weights,
            injections,
        })
    }

    /// Whether z is a state of these inputs.
    fn takes(&self, z: &Tensor<2>) -> bool {
        let batch = self.injections.dims()[0];
        z.dims() == [batch, self.setup.plan.state] && !z.is_autodiff() && z.dtype() == DType::F32
    }

    fn run(&self, job: Job, x: &Tensor<2>, c: &Tensor<2>, masks: [&Tensor<2>; 2]) -> Tensor<2> {
        let setup = Setup {
            job,
            ..self.setup.clone()
        };
        CubeStep::step(x, c, masks, self.weights, setup)
    }

    /// A job without factors or masks.
    fn simple(&self, job: Job, x: &Tensor<2>) -> Tensor<2> {
        self.run(job, x, self.injections, [x, x])
    }
}

/// Whether the fast form applies.
pub(crate) fn applies(formula: &StepFormula, x: Inputs<'_>) -> bool {
    Bound::new(formula, x).is_some()
}

/// prox(z - step dG/dz) of a packed state, or the derivative of prox there.
pub(crate) fn step(
    formula: &StepFormula,
    z: &Tensor<2>,
    x: Inputs<'_>,
    finish: Finish,
) -> Option<Tensor<2>> {
    let bound = Bound::new(formula, x)?;
    let job = match finish {
        Finish::Prox => Job::Step,
        Finish::Mask => Job::Mask,
    };
    bound.takes(z).then(|| bound.simple(job, z))
}

/// I - step H at a packed point, between masks.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    slopes: Option<Tensor<2>>,
    mask: Option<Tensor<2>>,
}

impl Product {
    pub(crate) fn new(
        formula: &StepFormula,
        z: &Tensor<2>,
        x: Inputs<'_>,
        mask: Option<Tensor<2>>,
    ) -> Option<Self> {
        let bound = Bound::new(formula, x)?;
        if !bound.takes(z) {
            return None;
        }
        let slopes = formula.has_slopes().then(|| bound.simple(Job::Slopes, z));
        Some(Self { slopes, mask })
    }

    pub(crate) fn mask(&self) -> Option<&Tensor<2>> {
        self.mask.as_ref()
    }

    /// The product with a packed u, masked before and after as requested.
    pub(crate) fn apply(
        &self,
        formula: &StepFormula,
        u: &Tensor<2>,
        x: Inputs<'_>,
        [before, after]: [bool; 2],
    ) -> Option<Tensor<2>> {
        let bound = Bound::new(formula, x)?;
        if !bound.takes(u) {
            return None;
        }
        let mask = self.mask.as_ref();
        let job = Job::Product {
            before: before && mask.is_some(),
            after: after && mask.is_some(),
        };
        let slopes = self.slopes.as_ref().unwrap_or(u);
        let mask = mask.unwrap_or(u);
        Some(bound.run(job, u, slopes, [mask, mask]))
    }
}

/// The step from a packed z, with gradients for kernels, injections and z. `value` is its result,
/// if known.
pub(crate) fn attach(
    formula: &StepFormula,
    z: &Tensor<2>,
    x: Inputs<'_>,
    value: Option<&Tensor<2>>,
) -> Option<Tensor<2>> {
    let bound = Bound::new(formula, x)?;
    let from = z.clone().without_autodiff();
    let known = value.is_none_or(|value| bound.takes(value));
    if !bound.takes(&from) || !known {
        return None;
    }
    let value = value.cloned();
    let value = value.unwrap_or_else(|| bound.simple(Job::Step, &from));
    let tracked = |tensors: &[Tensor<4>]| tensors.iter().any(Tensor::is_autodiff);
    if !z.is_autodiff() && !tracked(x.kernels) && !tracked(x.injections) {
        return Some(value);
    }
    let natural = flat(x.kernels, elements, 0);
    let injections = flat(x.injections, rows, 1);
    let (setup, weights) = (bound.setup.clone(), bound.weights.clone());
    let plain = bound.injections.clone();
    let (formula, values) = (formula.clone(), value.clone());
    let inputs = (natural, injections, z.clone());
    let attached = custom_gradient(inputs, value, move |u: Tensor<2>, wanted| {
        let bound = Bound {
            setup,
            weights: &weights,
            injections: &plain,
        };
        let z = from;
        // As on the CPU: with v = step D u, dc = s''(W z + c) W v, and W gets the correlations of z
        // with dc and of v with s'(W z + c); or dc = v, and W gets the correlations of z with -W v
        // and of -v with W z. z gets S D u.
        let u = match formula.prox {
            Some(_) => u * formula.mask_packed(&values),
            None => u,
        };
        let v = u.clone().mul_scalar(formula.step);
        let slopes = formula.has_slopes().then(|| bound.simple(Job::Slopes, &z));
        let (kernels, injections) = match &slopes {
            Some(slopes) => {
                let dc = bound.run(Job::Scaled, &v, slopes, [&v, &v]);
                let kernels = wanted[0].then(|| {
                    let h = bound.simple(Job::Activated, &z);
                    CubeStep::correlate(&[[&dc, &z], [&h, &v]], &bound.setup.plan)
                });
                (kernels, dc)
            }
            None if formula.kernel == Kernel::Reconstruction => {
                let dc = bound.simple(Job::Image, &v);
                let kernels = wanted[0].then(|| {
                    let difference = bound.simple(Job::Activated, &z);
                    CubeStep::correlate(&[[&dc, &z], [&difference, &v]], &bound.setup.plan).neg()
                });
                (kernels, dc)
            }
            None => {
                let kernels = wanted[0].then(|| {
                    let [wv, wz] = [&v, &z].map(|x| bound.simple(Job::Image, x));
                    CubeStep::correlate(&[[&wv, &z], [&wz, &v]], &bound.setup.plan).neg()
                });
                let dc = if formula.proximity {
                    v
                } else {
                    plain.zeros_like()
                };
                (kernels, dc)
            }
        };
        let state = wanted[2].then(|| {
            let job = Job::Product {
                before: false,
                after: false,
            };
            bound.run(job, &u, slopes.as_ref().unwrap_or(&u), [&u, &u])
        });
        (kernels, wanted[1].then_some(injections), state)
    });
    Some(attached)
}
