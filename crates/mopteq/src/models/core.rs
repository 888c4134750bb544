//! The implicit part of all optimization-induced models.

mod lipschitz;

use std::sync::Arc;

use burn::config::Config;
use burn::module::Module;
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Device, Tensor};
use burn_deq::{EquilibriumConfig, FixedPointMap, Input, Solution, Solver};

use crate::constraint::Constraint;
use crate::context::{Branches, Context, CrossKernel, Precision};
use crate::error::ConfigError;
use crate::graph::{Builder, CrossOperand, GraphError, Operands, Value};
use crate::norm::BoundedKernel;
use crate::objective::{HiddenObjective, Step};
use crate::perturbation::{Perturbation, PerturbationGradient};
use crate::terms::{
    ActivationConfig, ActivationPotential, Coupling, Diversity, KernelEnergy, Pairs, Proximity,
    Quadratic, Setting, Smoothness, Term,
};

/// Whether the activation is inside or outside. Both are reconstructions of the paper's objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", rename_all = "snake_case")]
pub enum Family {
    /// Inside, as in OptEqs: G = 1/2|z|^2 - 1's(Wz + Ug + b) + coupling, z = W' s'(Wz + Ug + b) -
    /// lambda L z. Needs ||W|| < 1.
    S,
    /// Outside, proximal: G = constraint + 1/2|z - (Ug + b)|^2 + 1/2|Wz|^2 + coupling,
    /// z = prox(z - step dG/dz). Strongly convex for every W.
    P,
}

/// The hidden objective of a model and its solver.
#[derive(Config, Debug, PartialEq)]
pub struct CoreConfig {
    /// Channels of the state in every branch. Default: 32
    #[config(default = 32)]
    pub channels: usize,
    /// Channels of W z in every branch. Default: 32
    #[config(default = 32)]
    pub hidden: usize,
    /// Whether the activation is inside or outside. Default: P
    #[config(default = "Family::P")]
    pub family: Family,
    /// The activation of family S. Default: ReLU
    #[config(default = "Default::default()")]
    pub activation: ActivationConfig,
    /// The constraint of family P. Default: z >= 0, whose proximal map is ReLU
    #[config(default = "Default::default()")]
    pub constraint: Constraint,
    /// lambda, the strength of the coupling between branches. Default: 0.01
    #[config(default = 0.01)]
    pub coupling: f64,
    /// Which branches are coupled. Default: all pairs
    #[config(default = "Default::default()")]
    pub pairs: Pairs,
    /// Whether W also has blocks between branches. Default: false
    #[config(default = false)]
    pub cross_branch: bool,
    /// Weight of spatial smoothness. Default: 0, none
    #[config(default = 0.0)]
    pub smoothness: f64,
    /// Weight of diversity between branches. Default: 0, none. Its curvature is not bounded, so it
    /// removes all guarantees.
    #[config(default = 0.0)]
    pub diversity: f64,
    /// Bound on the norm of W. Default: 0.95
    #[config(default = 0.95)]
    pub norm_bound: f64,
    /// The type in which W is applied. Default: f32
    #[config(default = "Default::default()")]
    pub precision: Precision,
    /// Solvers and gradient. Default: Anderson acceleration to a relative tolerance of 1e-3, at
    /// most 30 steps; implicit gradient to the same tolerance.
    #[config(default = "default_equilibrium()")]
    pub equilibrium: EquilibriumConfig,
}

/// Anderson acceleration to a relative tolerance of 1e-3, at most 30 steps.
pub(crate) fn default_equilibrium() -> EquilibriumConfig {
    EquilibriumConfig::new().with_forward(Solver::default().with_relative(1e-3).with_max_steps(30))
}

/// Resolution of a branch and size of its kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BranchShape {
    pub(crate) size: [usize; 2],
    pub(crate) kernel: usize,
}

impl CoreConfig {
    /// Checks every field for a number of branches.
    ///
    /// # Errors
    ///
    /// Returns the first invalid field, by name.
    pub fn validate(&self, branches: usize) -> Result<(), ConfigError> {
        ConfigError::counts(&[
            ("branches", branches),
            ("channels", self.channels),
            ("hidden", self.hidden),
        ])?;
        ConfigError::at_least_zero("coupling", self.coupling)?;
        ConfigError::at_least_zero("smoothness", self.smoothness)?;
        ConfigError::at_least_zero("diversity", self.diversity)?;
        if let ActivationConfig::LeakyRelu { slope } = self.activation {
            let fine = (0.0..=1.0).contains(&slope);
            ConfigError::range("activation", slope, fine, "a slope from 0 to 1")?;
        }
        match self.constraint {
            Constraint::Interval { low, high } => {
                ConfigError::range(
                    "constraint",
                    high,
                    low < high,
                    "an interval with low < high",
                )?;
            }
            Constraint::L1 { weight } | Constraint::Sparse { weight } => {
                ConfigError::at_least_zero("constraint", weight)?
            }
            Constraint::NonNegative => {}
        }
        let bound = self.norm_bound;
        match self.family {
            Family::S => {
                let fine = bound > 0.0 && bound < 1.0;
                let expected = "between 0 and 1 (exclusive) for family S";
                ConfigError::range("norm_bound", bound, fine, expected)
            }
            Family::P => {
                let fine = bound > 0.0 && bound.is_finite();
                ConfigError::range("norm_bound", bound, fine, "positive and finite")
            }
        }
    }

    /// The hidden objective over a number of branches.
    ///
    /// Family S uses step 1, the paper's Algorithm 2, if that is a contraction. Otherwise it uses
    /// the guaranteed step, as family P does. Diversity is left out of the step, because its
    /// curvature is not bounded.
    ///
    /// # Errors
    ///
    /// As [`validate`](Self::validate).
    pub fn objective(&self, branches: usize) -> Result<HiddenObjective, ConfigError> {
        self.validate(branches)?;
        let setting = Setting {
            branches,
            kernel_norm: self.norm_bound,
        };
        let mut terms: Vec<Arc<dyn Term>> = match self.family {
            Family::S => vec![
                Arc::new(Quadratic::default()),
                Arc::new(ActivationPotential::new(self.activation)),
            ],
            Family::P => vec![Arc::new(Proximity), Arc::new(KernelEnergy)],
        };
        if self.coupling > 0.0 && branches > 1 {
            terms.push(Arc::new(Coupling {
                strength: self.coupling,
                pairs: self.pairs,
            }));
        }
        if self.smoothness > 0.0 {
            let strength = self.smoothness;
            terms.push(Arc::new(Smoothness { strength }));
        }
        let constraint = match self.family {
            Family::S => None,
            Family::P => Some(self.constraint.shared()),
        };
        let build = |terms, step| HiddenObjective::new(terms, constraint.clone(), step, &setting);
        let mut step = Step::Guaranteed;
        if self.family == Family::S {
            let unit = build(terms.clone(), Step::Fixed(1.0))?;
            if unit.contraction().is_some() {
                step = Step::Fixed(1.0);
            }
        }
        let convex = build(terms.clone(), step)?;
        if self.diversity == 0.0 {
            return Ok(convex);
        }
        let strength = self.diversity;
        terms.push(Arc::new(Diversity { strength }));
        build(terms, Step::Fixed(convex.step()))
    }

    /// Channels of the injections c_i: family P injects into the state, family S into W z.
    pub fn injected(&self) -> usize {
        match self.family {
            Family::S => self.hidden,
            Family::P => self.channels,
        }
    }

    /// Creates the implicit part for branches of the given resolutions.
    pub(crate) fn init(
        &self,
        branches: &[BranchShape],
        device: &Device,
    ) -> Result<Core, ConfigError> {
        let objective = self.objective(branches.len())?;
        if !self.precision.is_supported(device) {
            return Err(ConfigError::Precision {
                precision: self.precision.name(),
                device: format!("{device:?}"),
            });
        }
        // The norm of a block operator is at most the number of blocks in a row times the largest
        // norm of a block.
        let blocks = if self.cross_branch { branches.len() } else { 1 };
        let bound = self.norm_bound / blocks as f64;
        let bounded = |b: &BranchShape| {
            let shape = [self.hidden, self.channels, b.kernel];
            BoundedKernel::new(shape, b.size, bound, device)
        };
        let kernels = branches.iter().map(bounded).collect();
        let mut cross = Vec::new();
        for to in 0..branches.len() * usize::from(self.cross_branch) {
            for from in (0..branches.len()).filter(|from| *from != to) {
                let kernel = bounded(&branches[from]);
                cross.push(CrossWeight { kernel, to, from });
            }
        }
        Ok(Core {
            kernels,
            cross,
            objective,
            config: self.clone(),
        })
    }
}

/// W_ij between two branches.
#[derive(Module, Debug)]
pub(crate) struct CrossWeight {
    kernel: BoundedKernel,
    to: usize,
    from: usize,
}

/// The implicit part of a model: the block operator W and the hidden objective.
#[derive(Module, Debug)]
pub struct Core {
    /// W_i.
    pub(crate) kernels: Vec<BoundedKernel>,
    /// W_ij.
    pub(crate) cross: Vec<CrossWeight>,
    #[module(skip)]
    objective: HiddenObjective,
    #[module(skip)]
    config: CoreConfig,
}

impl Core {
    /// The hidden objective.
    pub fn objective(&self) -> &HiddenObjective {
        &self.objective
    }

    /// Replaces the hidden objective with a custom one, for example with more terms. It must fit
    /// the shapes of the state and of the injections.
    pub fn with_objective(mut self, objective: HiddenObjective) -> Self {
        self.objective = objective;
        self
    }

    /// The configuration.
    pub fn config(&self) -> &CoreConfig {
        &self.config
    }

    /// The context of the bounded block operator and these injections, in the configured precision.
    pub fn context(&self, injection: Branches) -> Context {
        let kernels = BoundedKernel::kernels(&self.kernels);
        let cross = self.cross.iter().map(|c| CrossKernel {
            to: c.to,
            from: c.from,
            kernel: c.kernel.kernel(),
        });
        Context::new(kernels, injection)
            .with_cross(cross.collect())
            .in_precision(self.config.precision)
    }

    /// Norms of the bounded blocks of W, the W_i first, by power iteration from a random start.
    pub fn norms(&self, iterations: usize) -> Vec<f64> {
        let own = self.kernels.iter();
        own.chain(self.cross.iter().map(|c| &c.kernel))
            .map(|k| k.norm(iterations))
            .collect()
    }

    /// z = 0 in the shape of the state.
    pub fn start(&self, context: &Context) -> Branches {
        let zero = |c: &Tensor<4>| {
            let [batch, _, height, width] = c.dims();
            let shape = [batch, self.config.channels, height, width];
            Tensor::zeros(shape, (&c.device().without_autodiff(), c.dtype()))
        };
        context.injection().iter().map(zero).collect()
    }

    /// Algorithm 1: the equilibrium of the hidden objective, one `[batch, channels, h_i, w_i]` per
    /// branch.
    pub fn equilibrium(&self, context: &Context) -> Solution<Branches> {
        let equilibrium = self.config.equilibrium.init();
        equilibrium.solve_map(&self.objective, context.clone(), self.start(context))
    }

    /// Algorithm 1 as operations of a graph, in the type of the parameters.
    pub(crate) fn operations(
        &self,
        graph: &mut Builder,
        injections: Vec<Value>,
    ) -> Result<Vec<Value>, GraphError> {
        let shape = |c: &Value| {
            let [_, height, width] = graph.picture(*c);
            vec![self.config.channels, height, width]
        };
        let shapes: Vec<Vec<usize>> = injections.iter().map(shape).collect();
        let plain = |kernel: Tensor<4>| kernel.without_autodiff();
        let kernels = BoundedKernel::kernels(&self.kernels);
        let x = Operands {
            kernels: kernels.into_iter().map(plain).collect(),
            cross: (self.cross.iter())
                .map(|c| CrossOperand {
                    to: c.to,
                    from: c.from,
                    kernel: plain(c.kernel.kernel()),
                })
                .collect(),
            injections,
        };
        let rule = &self.config.equilibrium.forward.termination;
        graph.equilibrium(&shapes, rule, |graph, z| {
            self.objective.operations(graph, z, &x)
        })
    }

    /// The equilibrium for training: perturbed and followed by the perturbation's steps.
    pub(crate) fn perturbed(
        &self,
        context: &Context,
        perturbation: &Perturbation,
        ascent: impl FnOnce(&Branches) -> Branches,
    ) -> Solution<Branches> {
        let mut solution = match perturbation.gradient {
            PerturbationGradient::Implicit => self.equilibrium(context),
            PerturbationGradient::Steps => self.equilibrium(&context.plain()),
        };
        let mut z = perturbation.state(solution.state, ascent);
        for _ in 0..perturbation.steps {
            z = self.objective.apply(z, context.clone());
        }
        solution.state = z;
        solution
    }
}
