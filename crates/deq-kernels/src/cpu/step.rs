//! Steps, products and gradients of a batch; [`sample`](super::sample) computes one sample.

use std::cell::RefCell;

use burn::tensor::Tensor;
use rayon::prelude::*;

use super::convolution::convolves;
use super::memory::{Floats, lend, tensor};
use super::prepared::Kernels;
use super::sample::{Job, Sample, Scratch};
use super::{gram, pullback};
use crate::formula::{Finish, Kernel, StepFormula};
use crate::gradient::custom_gradient;
use crate::inputs::{Inputs, Prepared};

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Slopes of the activation or a mask, branch by branch.
pub(crate) type Factors = Vec<Floats>;

/// A formula with a state and inputs that the fast form supports.
struct Setup<'a> {
    formula: &'a StepFormula,
    kernels: &'a [Kernels],
    sizes: Vec<[usize; 2]>,
    z: Vec<Floats>,
    c: Vec<Floats>,
}

impl<'a> Setup<'a> {
    fn new(formula: &'a StepFormula, z: &[Tensor<4>], x: Inputs<'a>) -> Option<Self> {
        let (z, c) = (Floats::all(z)?, Floats::all(x.injections)?);
        let kernels = x.prepared.cpu.get(x.kernels)?;
        let fits = |((z, c), kernel): ((&Floats, &Floats), &Tensor<4>)| {
            let injected = if formula.injects_into_state() { 1 } else { 0 };
            let [batch, _, height, width] = z.dims;
            convolves(z.dims, kernel.dims())
                && c.dims == [batch, kernel.dims()[injected], height, width]
                && batch == x.injections[0].dims()[0]
        };
        let branches = z.iter().zip(&c).zip(x.kernels);
        let sizes: Vec<[usize; 2]> = z.iter().map(|z| [z.dims[2], z.dims[3]]).collect();
        let fits = match formula.kernel {
            Kernel::Gram => {
                let channels = z.iter().map(|z| z.dims[1]).sum::<usize>();
                let same = z.iter().zip(&c).all(|(z, c)| z.dims == c.dims);
                same && x.kernels.len() == 1 && x.kernels[0].dims() == [channels, channels, 1, 1]
            }
            _ => z.len() == kernels.len() && branches.into_iter().all(fits),
        };
        if !fits || z.len() != c.len() || z.is_empty() || !formula.fits(&sizes) {
            return None;
        }
        Some(Self {
            formula,
            kernels,
            sizes,
            z,
            c,
        })
    }

    /// Runs a job on every sample. `out` holds the shapes of the result. `job` creates a sample's
    /// job from its injections and factors.
    fn run(
        &self,
        out: &[[usize; 4]],
        factors: [Option<&Factors>; 3],
        job: impl for<'s> Fn(&'s [&'s [f32]], [Option<&'s [&'s [f32]]>; 3]) -> Job<'s> + Sync,
    ) -> Vec<Vec<f32>> {
        let batch = self.z[0].dims[0];
        let mut results: Vec<Vec<f32>> = out
            .iter()
            .map(|dims| vec![0.0; dims.iter().product()])
            .collect();
        let mut parts: Vec<Vec<&mut [f32]>> = (0..batch).map(|_| Vec::new()).collect();
        for result in &mut results {
            let size = result.len() / batch.max(1);
            for (part, result) in parts.iter_mut().zip(result.chunks_exact_mut(size.max(1))) {
                part.push(result);
            }
        }
        fn row(all: &[Floats], n: usize) -> Vec<&[f32]> {
            all.iter()
                .map(|f| &f.elements()[n * f.sample()..(n + 1) * f.sample()])
                .collect()
        }
        let each = |(n, mut out): (usize, Vec<&mut [f32]>)| {
            let (z, c) = (row(&self.z, n), row(&self.c, n));
            let factors = factors.map(|f| f.map(|f| row(f, n)));
            let factors = [0, 1, 2].map(|k: usize| factors[k].as_deref());
            let sample = Sample {
                formula: self.formula,
                kernels: self.kernels,
                sizes: &self.sizes,
                z: &z,
                job: job(&c, factors),
            };
            lend(&SCRATCH, |scratch| sample.run(scratch, &mut out));
        };
        if batch == 1 {
            // Not as a task, because its convolutions are spread over the cores.
            parts.into_iter().enumerate().for_each(each);
        } else {
            parts.into_par_iter().enumerate().for_each(each);
        }
        results
    }

    fn state_shapes(&self) -> Vec<[usize; 4]> {
        self.z.iter().map(|z| z.dims).collect()
    }
}

fn tensors(results: Vec<Vec<f32>>, shapes: &[[usize; 4]], like: &[Tensor<4>]) -> Vec<Tensor<4>> {
    results
        .into_iter()
        .zip(shapes)
        .zip(like)
        .map(|((r, dims), like)| tensor(r, *dims, like))
        .collect()
}

/// Whether the fast form applies.
pub(crate) fn applies(formula: &StepFormula, z: &[Tensor<4>], x: Inputs<'_>) -> bool {
    Setup::new(formula, z, x).is_some()
}

/// prox(z - step dG/dz), or the derivative of prox there. `None` if there is no fast form.
pub(crate) fn step(
    formula: &StepFormula,
    z: &[Tensor<4>],
    x: Inputs<'_>,
    finish: Finish,
) -> Option<Vec<Tensor<4>>> {
    let setup = Setup::new(formula, z, x)?;
    let shapes = setup.state_shapes();
    let results = setup.run(&shapes, [None; 3], |c, _| Job::Step(c, finish));
    Some(tensors(results, &shapes, z))
}

/// The derivative of prox from the values of a step. `None` if there is no fast form.
pub(crate) fn mask(formula: &StepFormula, values: &[Tensor<4>]) -> Option<Vec<Tensor<4>>> {
    let of = |value: &Tensor<4>| {
        let values = Floats::new(value)?;
        let mask = values.elements().iter();
        let mask = mask
            .map(|v| f32::from(u8::from(formula.moves(*v))))
            .collect();
        Some(tensor(mask, values.dims, value))
    };
    values.iter().map(of).collect()
}

/// A step from a plain z with gradients for kernels and injections. Computes the plain value of the
/// step unless it is given. `None` if there is no fast form.
pub(crate) fn tracked_step(
    formula: &StepFormula,
    z: &[Tensor<4>],
    x: Inputs<'_>,
    value: Option<Vec<Tensor<4>>>,
) -> Option<Vec<Tensor<4>>> {
    let plain = |tensors: &[Tensor<4>]| -> Vec<Tensor<4>> {
        let tensors = tensors.iter().cloned();
        tensors.map(Tensor::without_autodiff).collect()
    };
    let (kernels, injections) = (plain(x.kernels), plain(x.injections));
    let inputs = Inputs {
        kernels: &kernels,
        prepared: &Prepared::default(),
        injections: &injections,
    };
    let states = Floats::all(z)?;
    let injections = Floats::all(inputs.injections)?;
    let weights = Floats::all(inputs.kernels)?;
    let values = match value {
        Some(values) if applies(formula, z, inputs) => values,
        _ => step(formula, z, inputs, Finish::Prox)?,
    };
    if formula.kernel == Kernel::Gram {
        return Some(tracked_joint_step(formula, states, x, values));
    }
    let branches = states.into_iter().zip(injections).zip(weights);
    // The coupling does not depend on the tracked tensors, so every branch is a separate operation.
    let attached = branches
        .zip(values)
        .enumerate()
        .map(|(i, (branch, value))| {
            let ((z, c), weights) = branch;
            let of = pullback::Branch {
                value: Floats::new(&value).expect("a plain value on the backend of z"),
                formula: formula.clone(),
                z,
                c,
                weights,
            };
            let constant = Tensor::<1>::zeros([1], &value.device());
            let inputs = (x.kernels[i].clone(), x.injections[i].clone(), constant);
            custom_gradient(inputs, value, move |u: Tensor<4>, wanted: [bool; 3]| {
                let u_elements = Floats::new(&u).expect("the gradient is on the output's backend");
                let (kernel, injection) = of.pull_back(&u_elements, [wanted[0], wanted[1]]);
                let kernel = kernel.map(|k| tensor(k, of.weights.dims, &u));
                let injection = injection.map(|c| tensor(c, of.c.dims, &u));
                (kernel, injection, None)
            })
        });
    Some(attached.collect())
}

/// Like [`tracked_step`], with the joint product.
fn tracked_joint_step(
    formula: &StepFormula,
    z: Vec<Floats>,
    x: Inputs<'_>,
    values: Vec<Tensor<4>>,
) -> Vec<Tensor<4>> {
    let dims = x.kernels[0].dims();
    let branches = values.into_iter().enumerate().map(|(branch, value)| {
        let of = gram::Branch {
            formula: formula.clone(),
            z: z.clone(),
            branch,
            value: Floats::new(&value).expect("a plain value on the backend of z"),
        };
        let constant = Tensor::<1>::zeros([1], &value.device());
        let inputs = (x.kernels[0].clone(), x.injections[branch].clone(), constant);
        custom_gradient(inputs, value, move |u: Tensor<4>, wanted: [bool; 3]| {
            let u_elements = Floats::new(&u).expect("the gradient is on the output's backend");
            let (gram, injection) = of.pull_back(&u_elements, [wanted[0], wanted[1]]);
            let gram = gram.map(|g| tensor(g, dims, &u));
            let injection = injection.map(|c| tensor(c, of.value.dims, &u));
            (gram, injection, None)
        })
    });
    branches.collect()
}

/// I - step H at a point, between masks.
#[derive(Clone, Debug)]
pub(crate) struct Product {
    slopes: Option<Factors>,
    mask: Option<Factors>,
}

impl Product {
    /// The product at z. `None` if there is no fast form.
    pub(crate) fn new(
        formula: &StepFormula,
        z: &[Tensor<4>],
        x: Inputs<'_>,
        mask: Option<&[Tensor<4>]>,
    ) -> Option<Self> {
        let setup = Setup::new(formula, z, x)?;
        let mask = match mask {
            Some(mask) => Some(Floats::all(mask)?),
            None => None,
        };
        let mut slopes = None;
        if formula.has_slopes() {
            let shapes: Vec<[usize; 4]> = setup.c.iter().map(|c| c.dims).collect();
            let results = setup.run(&shapes, [None; 3], |c, _| Job::Slopes(c));
            slopes = Some(Floats::all(&tensors(results, &shapes, z))?);
        }
        Some(Self { slopes, mask })
    }

    /// The product with u, which has the shape of z. `masked` says whether to mask before and
    /// after. `None` as for [`new`](Self::new).
    pub(crate) fn apply(
        &self,
        formula: &StepFormula,
        u: &[Tensor<4>],
        x: Inputs<'_>,
        [before, after]: [bool; 2],
    ) -> Option<Vec<Tensor<4>>> {
        let setup = Setup::new(formula, u, x)?;
        let shapes = setup.state_shapes();
        let mask = |wanted: bool| self.mask.as_ref().filter(|_| wanted);
        let factors = [self.slopes.as_ref(), mask(before), mask(after)];
        let results = setup.run(&shapes, factors, |_, [slopes, before, after]| {
            Job::Product {
                slopes,
                before,
                after,
            }
        });
        Some(tensors(results, &shapes, u))
    }
}
