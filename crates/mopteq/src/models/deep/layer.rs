//! A layer of a stack: an equilibrium, its branches at one resolution, and batch norm.

use burn::module::Module;
use burn::nn::BatchNorm;
use burn::nn::conv::Conv2d;
use burn::serde::{Deserialize, Serialize};
use burn::tensor::{Device, Tensor};
use burn_deq::{EquilibriumConfig, Solution};
use deq_kernels::vectors::join;
use deq_kernels::{convolution, mean_pool, norm};

use crate::context::{Branches, Context};
use crate::error::ConfigError;
use crate::graph::{Builder, GraphError, Op, Value};
use crate::models::coding::{Coding, CodingConfig};
use crate::models::core::{BranchShape, Core, CoreConfig};
use crate::models::mopteqs::check_halving;
use crate::models::parts::{injections_bound, same_convolution};
use crate::objective::HiddenObjective;
use crate::resample::resample;

/// The equilibrium of a layer. When serialised, the field `kind` tells them apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde", tag = "kind", rename_all = "snake_case")]
pub enum LayerConfig {
    /// Nonnegative coding: one kernel injects and decodes.
    Coding(CodingConfig),
    /// The objective of a MOptEq, with an injection of its own for every branch.
    Core {
        /// Number of branches; each has half the resolution of the previous one.
        branches: usize,
        /// The objective. Its `channels` are those of each branch, so the layer has `branches`
        /// times as many.
        core: CoreConfig,
    },
}

impl LayerConfig {
    /// Solvers and gradient.
    pub fn equilibrium_mut(&mut self) -> &mut EquilibriumConfig {
        match self {
            Self::Coding(c) => &mut c.equilibrium,
            Self::Core { core, .. } => &mut core.equilibrium,
        }
    }

    pub(super) fn validate(&self, channels: usize, size: [usize; 2]) -> Result<(), ConfigError> {
        match self {
            Self::Coding(c) => c.validate(channels, size),
            Self::Core { branches, core } => {
                core.validate(*branches)?;
                if branches * core.channels != channels {
                    return Err(ConfigError::OutOfRange {
                        field: "channels",
                        value: channels as f64,
                        expected: "`branches` times the `channels` of the stage's core",
                    });
                }
                check_halving(size, *branches)
            }
        }
    }

    pub(super) fn init(
        &self,
        [input, channels]: [usize; 2],
        size: [usize; 2],
        device: &Device,
    ) -> Result<Implicit, ConfigError> {
        self.validate(channels, size)?;
        Ok(match self {
            Self::Coding(c) => Implicit::Coding(c.init([input, channels], size, device)?),
            Self::Core { branches, core } => {
                let shape = |i: usize| BranchShape {
                    size: size.map(|n| n >> i),
                    kernel: 3,
                };
                let shapes: Vec<_> = (0..*branches).map(shape).collect();
                let injections = shapes
                    .iter()
                    .map(|_| same_convolution([input, core.injected()], device));
                Implicit::Core(Free {
                    injections: injections.collect(),
                    core: core.init(&shapes, device)?,
                })
            }
        })
    }
}

/// Layers of one resolution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "burn::serde")]
pub struct StageConfig {
    /// Channels of every layer's output, all branches together.
    pub channels: usize,
    /// Number of layers, each an equilibrium followed by batch norm.
    pub layers: usize,
    /// Whether the stage halves the resolution first, by averaging.
    pub pool: bool,
    /// The equilibrium of every layer.
    pub layer: LayerConfig,
}

impl StageConfig {
    /// A stage of codings.
    pub fn coding(channels: usize, layers: usize, pool: bool, coding: CodingConfig) -> Self {
        Self {
            channels,
            layers,
            pool,
            layer: LayerConfig::Coding(coding),
        }
    }
}

/// What a layer solves.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer is not moved in a hot loop"
)]
pub(super) enum Implicit {
    Coding(Coding),
    Core(Free),
}

/// A MOptEq's objective with the injections of its branches.
#[derive(Module, Debug)]
pub(super) struct Free {
    injections: Vec<Conv2d>,
    pub(super) core: Core,
}

impl Free {
    /// Height and width of every branch, for inputs of this size.
    pub(super) fn sizes(&self, size: [usize; 2]) -> Vec<[usize; 2]> {
        (0..self.injections.len())
            .map(|i| size.map(|n| n >> i))
            .collect()
    }

    /// Bound on the factor of the injections for inputs of this size whose channels are scaled.
    pub(super) fn injected(&self, scale: &[f64], size: [usize; 2]) -> f64 {
        injections_bound(&self.injections, &self.sizes(size), scale, size)
    }

    fn context(&self, g: Tensor<4>) -> Context {
        let [_, _, height, width] = g.dims();
        let inject = |(i, u): (usize, &Conv2d)| {
            let size = [height >> i, width >> i];
            let g = match i {
                0 => g.clone(),
                _ => mean_pool(g.clone(), size),
            };
            convolution::forward(u, g)
        };
        let injections = self.injections.iter().enumerate().map(inject);
        self.core.context(injections.collect())
    }
}

/// An equilibrium, its branches at one resolution, and batch norm.
#[derive(Module, Debug)]
pub(super) struct Layer {
    pub(super) implicit: Implicit,
    pub(super) norm: BatchNorm,
}

impl Layer {
    pub(super) fn objective(&self) -> &HiddenObjective {
        match &self.implicit {
            Implicit::Coding(coding) => coding.objective(),
            Implicit::Core(free) => free.core.objective(),
        }
    }

    pub(super) fn context(&self, g: Tensor<4>) -> Context {
        match &self.implicit {
            Implicit::Coding(coding) => coding.context(g),
            Implicit::Core(free) => free.context(g),
        }
    }

    pub(super) fn equilibrium(&self, g: Tensor<4>) -> Solution<Branches> {
        match &self.implicit {
            Implicit::Coding(coding) => coding.equilibrium(g),
            Implicit::Core(free) => free.core.equilibrium(&free.context(g)),
        }
    }

    /// z = 0 for this input.
    pub(super) fn start(&self, g: &Tensor<4>) -> Branches {
        match &self.implicit {
            Implicit::Coding(coding) => coding.start(g),
            Implicit::Core(free) => free.core.start(&free.context(g.clone())),
        }
    }

    /// The layer as operations of a graph.
    pub(super) fn operations(&self, graph: &mut Builder, g: Value) -> Result<Value, GraphError> {
        let [_, height, width] = graph.picture(g);
        let state = match &self.implicit {
            Implicit::Coding(coding) => coding.operations(graph, g)?,
            Implicit::Core(free) => {
                let injections = free.injections.iter().enumerate().map(|(i, u)| {
                    let g = graph.mean_pool(g, [height >> i, width >> i]);
                    graph.module_convolution(g, u)
                });
                let injections = injections.collect();
                free.core.operations(graph, injections)?
            }
        };
        let raised = state.iter().map(|z| {
            let part = graph.resample(*z, [height, width]);
            graph.combine(&[part])
        });
        let raised: Vec<Value> = raised.collect();
        let channels = raised.iter().map(|z| graph.shape(*z)[0]).sum();
        let stacked = match raised[..] {
            [alone] => alone,
            _ => graph.push(Op::Concat, &raised, vec![channels, height, width]),
        };
        Ok(graph.batch_norm(stacked, &self.norm))
    }

    /// The layer's output from its equilibrium.
    pub(super) fn output(&self, state: &Branches) -> Tensor<4> {
        let [batch, _, height, width] = state[0].dims();
        let parts = state.iter().map(|z| {
            let z = resample(z.clone(), [height, width]);
            z.flatten::<2>(1, 3)
        });
        let channels: usize = state.iter().map(|z| z.dims()[1]).sum();
        let stacked = join(parts.collect(), 1).reshape([batch, channels, height, width]);
        norm(&self.norm, stacked)
    }
}

/// The input and the result of a layer.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// "stage 1, layer 2".
    pub name: String,
    /// The layer's input, `[batch, in, height, width]`.
    pub input: Tensor<4>,
    /// The equilibrium, one tensor per branch.
    pub state: Branches,
    /// For codings, the reconstruction from the codes, in the shape of the input.
    pub reconstruction: Option<Tensor<4>>,
    /// Everything that the layer's objective depends on, except the state.
    pub context: Context,
    /// The layer's objective.
    pub objective: HiddenObjective,
}
