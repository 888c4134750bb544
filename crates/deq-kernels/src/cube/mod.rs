//! Fast forms for GPUs, written in CubeCL: one launch a step, for all branches and samples.
//!
//! They work on packed states `[batch, n]`, plain `f32` tensors on one of CubeCL's devices. Every
//! entry returns `None` where it does not apply, and the caller takes the portable form. There is
//! one body for every device; a cube's tile is as large as the device's shared memory allows.

mod kernels;
mod launch;
mod plan;
mod vectors;

use std::sync::{Arc, OnceLock};

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Device, Tensor};

use crate::gradient::custom_gradient;
use crate::step::{Finish, Inputs, Kernel, StepFormula};
use crate::vectors::{ConjugateStep, Points};
use launch::{CubeStep, Setup};
use plan::{Formula, Job, Plan};

/// Bytes of shared memory that a cube takes at most: a processor should hold several cubes.
const SHARED: usize = 48 << 10;
/// Samples whose kernel gradients one cube adds up, as long as there are fewer groups than this.
const GROUPS: usize = 256;
/// Units of a cube that works on a vector, at most.
const VECTOR_UNITS: usize = 512;

/// The plan for kernels, and the kernels laid out.
type Kernels = (Arc<Plan>, Tensor<1>);

/// Kernels and injections in the forms that the kernels read, made at first use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    kernels: Arc<OnceLock<Option<Kernels>>>,
    injections: Arc<OnceLock<Tensor<2>>>,
}

impl Prepared {
    /// The kernels alone.
    pub(crate) fn with_other_injections(&self) -> Self {
        Self {
            kernels: self.kernels.clone(),
            injections: Arc::default(),
        }
    }
}

fn flat<const D: usize, const E: usize>(
    tensors: &[Tensor<D>],
    shape: impl Fn(&Tensor<D>) -> [usize; E],
    dim: usize,
) -> Tensor<E> {
    let flat = tensors.iter().map(|t| t.clone().reshape(shape(t)));
    Tensor::cat(flat.collect(), dim)
}

fn elements(tensor: &Tensor<4>) -> [usize; 1] {
    [tensor.dims().iter().product()]
}

fn rows(tensor: &Tensor<4>) -> [usize; 2] {
    let [batch, a, b, c] = tensor.dims();
    [batch, a * b * c]
}

fn plain(tensors: &[Tensor<4>]) -> Vec<Tensor<4>> {
    let tensors = tensors.iter().cloned();
    tensors.map(Tensor::without_autodiff).collect()
}

/// Elements of shared memory and units that a cube of the device may have.
fn limits(device: &Device) -> Option<[usize; 2]> {
    match device.as_dispatch() {
        DispatchDevice::Cube(device) => {
            let client = device.client();
            let hardware = &client.properties().hardware;
            let shared = hardware.max_shared_memory_size.min(SHARED) / size_of::<f32>();
            Some([shared, hardware.max_units_per_cube as usize])
        }
        #[allow(unreachable_patterns)]
        _ => None,
    }
}

/// A formula with its inputs on a device.
struct Bound<'a> {
    setup: Setup,
    weights: &'a Tensor<1>,
    injections: &'a Tensor<2>,
}

impl<'a> Bound<'a> {
    fn new(formula: &StepFormula, x: Inputs<'a>) -> Option<Self> {
        let prepared = &x.prepared.cube;
        let sizes = || -> Vec<[usize; 2]> {
            let sizes = x.injections.iter().map(|c| [c.dims()[2], c.dims()[3]]);
            sizes.collect()
        };
        let (plan, weights) = prepared
            .kernels
            .get_or_init(|| {
                let all = || x.kernels.iter().chain(x.injections);
                let [shared, units] = limits(&x.kernels.first()?.device().without_autodiff())?;
                if all().any(|t| t.dtype() != DType::F32) {
                    return None;
                }
                let kernels: Vec<_> = x.kernels.iter().map(Tensor::dims).collect();
                let plan = Arc::new(Plan::new(&kernels, &sizes(), shared, units)?);
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
        // The grid of cubes has a sample in its second dimension.
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

    /// The product with a packed u, masked before and after as asked.
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

/// The step from a packed z, with gradients for kernels, injections and z. `value` is it where it is
/// known.
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
        // with dc and of v with s'(W z + c); or dc = v, and W gets those of z with -W v and of -v
        // with W z. z gets S D u.
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

/// Kernels bounded at their directions, and the directions after a power iteration if one is wanted;
/// see [`crate::bounded`].
pub(crate) fn bounded(
    kernels: &[Tensor<4>],
    directions: &[Tensor<4>],
    bounds: &[f64],
    iterate: bool,
) -> Option<(Vec<Tensor<4>>, Vec<Tensor<4>>)> {
    let [shared, units] = limits(&kernels.first()?.device().without_autodiff())?;
    let mut all = kernels.iter().chain(directions);
    if all.any(|t| t.dtype() != DType::F32) || directions.iter().any(|v| v.dims()[0] != 1) {
        return None;
    }
    let dims: Vec<_> = kernels.iter().map(Tensor::dims).collect();
    let sizes: Vec<_> = directions
        .iter()
        .map(|v| [v.dims()[2], v.dims()[3]])
        .collect();
    let plan = Arc::new(Plan::new(&dims, &sizes, shared, units)?);
    let natural = flat(kernels, elements, 0);
    let plain = natural.clone().without_autodiff();
    let weights = CubeStep::lay_out(plain.clone(), &plan);
    let setup = |job| Setup {
        formula: Arc::new(Formula::square()),
        plan: plan.clone(),
        job,
    };
    let mut v = flat(directions, rows, 1);
    if iterate {
        let square = Job::Product {
            before: false,
            after: false,
        };
        v = CubeStep::normalise(
            CubeStep::step(&v, &v, [&v, &v], &weights, setup(square)),
            &plan,
        );
    }
    let image = CubeStep::step(&v, &v, [&v, &v], &weights, setup(Job::Image));
    let bounds: Vec<u32> = bounds
        .iter()
        .map(|bound| (*bound as f32).to_bits())
        .collect();
    let scaled = CubeStep::bound(&plain, &image, &bounds, &plan);
    let constant = Tensor::<1>::zeros([1], &plain.device());
    let inputs = (natural, constant.clone(), constant);
    let (of, direction) = (plan.clone(), v.clone());
    let scaled = custom_gradient(inputs, scaled, move |g: Tensor<1>, _wanted| {
        let correlation = CubeStep::correlate(&[[&image, &direction]], &of);
        let gradient = CubeStep::unbound([&g, &plain], &image, &correlation, &bounds, &of);
        (Some(gradient), None, None)
    });
    let lengths = plan.branches.iter().map(|b| b.weights_len(plan.kernel));
    let scaled = scaled.split_with_sizes(lengths.collect(), 0);
    let scaled = scaled
        .into_iter()
        .zip(&dims)
        .map(|(k, dims)| k.reshape(*dims));
    let lengths = plan.branches.iter().map(|b| b.channels * b.pixels());
    let parts = v.split_with_sizes(lengths.collect(), 1);
    let parts = parts
        .into_iter()
        .zip(directions)
        .map(|(v, like)| v.reshape(like.dims()));
    Some((scaled.collect(), parts.collect()))
}

/// The convolution with a kernel `[out, in, k, k]` that keeps the resolution, with gradients for both.
pub(crate) fn convolve(
    x: &Tensor<4>,
    kernel: &Tensor<4>,
    bias: Option<&Tensor<1>>,
) -> Option<Tensor<4>> {
    let [shared, units] = limits(&x.device().without_autodiff())?;
    let [batch, channels, height, width] = x.dims();
    let dims = kernel.dims();
    let [out, inner, ..] = dims;
    let counted = (1..=usize::from(u16::MAX)).contains(&batch);
    if x.dtype() != DType::F32 || kernel.dtype() != DType::F32 || inner != channels || !counted {
        return None;
    }
    let plan = Arc::new(Plan::new(&[dims], &[[height, width]], shared, units)?);
    let (kernel, x) = (kernel.clone(), x.clone());
    let natural = kernel.clone().without_autodiff().reshape([plan.natural]);
    let weights = CubeStep::lay_out(natural, &plan);
    let image = |plan: &Arc<Plan>| Setup {
        formula: Arc::new(Formula::square()),
        plan: plan.clone(),
        job: Job::Image,
    };
    let z = x.clone().without_autodiff().reshape([batch, plan.state]);
    let y = CubeStep::step(&z, &z, [&z, &z], &weights, image(&plan));
    let mut y = y.reshape([batch, out, height, width]);
    if kernel.is_autodiff() || x.is_autodiff() {
        let constant = Tensor::<1>::zeros([1], &y.device());
        y = custom_gradient((kernel, x, constant), y, move |g: Tensor<4>, wanted| {
            let g = g.reshape([batch, plan.image]);
            let gradient = wanted[0].then(|| CubeStep::correlate(&[[&g, &z]], &plan).reshape(dims));
            let state = wanted[1].then(|| {
                let plan = Arc::new(plan.transposed());
                let x = CubeStep::step(&g, &g, [&g, &g], &weights, image(&plan));
                x.reshape([batch, channels, height, width])
            });
            (gradient, state, None)
        });
    }
    Some(match bias {
        Some(bias) => y + bias.clone().reshape([1, out, 1, 1]),
        None => y,
    })
}

/// Units of a cube that works on a vector, and the vectors that fit the device's bindings; `None`
/// unless all are plain `f32` tensors of one shape on one of CubeCL's devices.
fn vectors_of(x: &[&Tensor<2>]) -> Option<usize> {
    let first = x.first()?;
    let same =
        |x: &&Tensor<2>| x.dims() == first.dims() && x.dtype() == DType::F32 && !x.is_autodiff();
    let [batch, width] = first.dims();
    if !x.iter().all(same) || batch == 0 || width == 0 || batch > usize::from(u16::MAX) {
        return None;
    }
    let [_, units] = limits(&first.device())?;
    Some(plan::power_of_two(units.min(VECTOR_UNITS)))
}

/// The points that [`products`] takes; 0 where it does not apply.
pub(crate) fn most_points(like: &Tensor<2>) -> usize {
    let Some(units) = vectors_of(&[like]) else {
        return 0;
    };
    let device = like.device();
    let DispatchDevice::Cube(device) = device.as_dispatch() else {
        return 0;
    };
    let client = device.client();
    let hardware = &client.properties().hardware;
    // z and f of each point and the result are bound; every unit has two sums a difference.
    let bound = (hardware.max_bindings as usize).saturating_sub(1) / 2;
    let enough = bound >= vectors::POINTS
        && units * 2 * vectors::POINTS * size_of::<f32>() <= hardware.max_shared_memory_size;
    if enough { vectors::POINTS } else { 0 }
}

/// See [`crate::vectors::Points::products`].
pub(crate) fn products(of: &Points<'_>) -> Option<Tensor<2>> {
    let all: Vec<&Tensor<2>> = of.points.iter().flatten().collect();
    let units = vectors_of(&all)?;
    let count = of.points.len();
    if count > most_points(all[0]) || of.slots.len() + 1 != count {
        return None;
    }
    // What is not there is not looked at.
    let mut at = (0..vectors::POINTS).flat_map(|k| of.points[k.min(count - 1)].clone());
    let mut next = || at.next().expect("two tensors a point").into_dispatch();
    Some(Tensor::from_dispatch(
        <Dispatch as launch::CubeKernels>::gram(
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            of.slots.to_vec(),
            of.width,
            units,
        ),
    ))
}

/// See [`crate::vectors::combine`].
pub(crate) fn combine(weights: &Tensor<2>, x: &[Tensor<2>]) -> Option<Tensor<2>> {
    let units = vectors_of(&x.iter().collect::<Vec<_>>())?;
    let fits = weights.dims() == [x[0].dims()[0], x.len()] && weights.dtype() == DType::F32;
    if x.len() > most_points(&x[0]) || !fits {
        return None;
    }
    let mut next = (0..vectors::POINTS).map(|k| x[k.min(x.len() - 1)].clone().into_dispatch());
    let mut next = || next.next().expect("one for each argument");
    Some(Tensor::from_dispatch(
        <Dispatch as launch::CubeKernels>::combine(
            weights.clone().into_dispatch(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            next(),
            units.min(256),
        ),
    ))
}

/// See [`crate::vectors::conjugate_step`].
pub(crate) fn conjugate_step(
    [u, r, p, product]: [&Tensor<2>; 4],
    rr: &Tensor<2>,
    within: Option<&Tensor<2>>,
) -> Option<ConjugateStep> {
    let mask = within.unwrap_or(u);
    let units = vectors_of(&[u, r, p, product, mask])?;
    if most_points(u) == 0 || rr.dims() != [u.dims()[0], 1] {
        return None;
    }
    let [u, r, p, product, mask] = [u, r, p, product, mask].map(|t| t.clone().into_dispatch());
    let rr = rr.clone().into_dispatch();
    let masked = within.is_some();
    let made =
        <Dispatch as launch::CubeKernels>::conjugate(u, r, p, product, mask, rr, masked, units);
    Some(ConjugateStep {
        u: Tensor::from_dispatch(made.0),
        r: Tensor::from_dispatch(made.1),
        p: Tensor::from_dispatch(made.2),
        squares: Tensor::from_dispatch(made.3),
    })
}

/// Calls of the kernels on Burn's tensors.
impl CubeStep {
    fn lay_out(natural: Tensor<1>, plan: &Arc<Plan>) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as launch::CubeKernels>::lay_out(
            natural.into_dispatch(),
            plan.clone(),
        ))
    }

    fn step(
        x: &Tensor<2>,
        c: &Tensor<2>,
        [before, after]: [&Tensor<2>; 2],
        weights: &Tensor<1>,
        setup: Setup,
    ) -> Tensor<2> {
        let [x, c, before, after] = [x, c, before, after].map(|t| t.clone().into_dispatch());
        let weights = weights.clone().into_dispatch();
        Tensor::from_dispatch(<Dispatch as launch::CubeKernels>::step(
            x, c, before, after, weights, setup,
        ))
    }

    /// The sum of the correlations of one or two pairs of an image and a state: `[kernels]`.
    fn correlate(pairs: &[[&Tensor<2>; 2]], plan: &Arc<Plan>) -> Tensor<1> {
        let [a1, z1] = pairs[0].map(|t| t.clone().into_dispatch());
        let [a2, z2] = pairs[pairs.len() - 1].map(|t| t.clone().into_dispatch());
        let group = pairs[0][0].dims()[0].div_ceil(GROUPS);
        let (count, plan) = (pairs.len(), plan.clone());
        let sums = Tensor::<2>::from_dispatch(<Dispatch as launch::CubeKernels>::correlate(
            a1, z1, a2, z2, group, count, plan,
        ));
        match sums.dims()[0] {
            1 => sums.squeeze_dim(0),
            _ => sums.sum_dim(0).squeeze_dim(0),
        }
    }

    fn normalise(x: Tensor<2>, plan: &Arc<Plan>) -> Tensor<2> {
        Tensor::from_dispatch(<Dispatch as launch::CubeKernels>::normalise(
            x.into_dispatch(),
            plan.clone(),
        ))
    }

    fn bound(
        kernels: &Tensor<1>,
        image: &Tensor<2>,
        bounds: &[u32],
        plan: &Arc<Plan>,
    ) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as launch::CubeKernels>::bound(
            kernels.clone().into_dispatch(),
            image.clone().into_dispatch(),
            bounds.to_vec(),
            plan.clone(),
        ))
    }

    fn unbound(
        [gradient, kernels]: [&Tensor<1>; 2],
        image: &Tensor<2>,
        correlation: &Tensor<1>,
        bounds: &[u32],
        plan: &Arc<Plan>,
    ) -> Tensor<1> {
        Tensor::from_dispatch(<Dispatch as launch::CubeKernels>::unbound(
            gradient.clone().into_dispatch(),
            kernels.clone().into_dispatch(),
            image.clone().into_dispatch(),
            correlation.clone().into_dispatch(),
            bounds.to_vec(),
            plan.clone(),
        ))
    }
}
