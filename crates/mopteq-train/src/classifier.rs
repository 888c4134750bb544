//! The model as the training loop sees it: loss, gradients, and what the solver did.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::GradientsParams;
use burn::prelude::*;
use burn_deq::Report;
use mopteq::{Network, Precision};

use crate::config::{ConfigError, TrainConfig};
use crate::data::Batch;
use crate::solves::{LayerStats, SolveStats};

/// A network that is trained with the cross entropy.
#[derive(Module, Debug)]
pub struct Classifier {
    model: Network,
    #[module(skip)]
    label_smoothing: f64,
    /// Number of plain steps in inference, in place of the model's solver.
    #[module(skip)]
    plain_steps: Option<usize>,
    /// Whether inference takes the mean of the logits of a picture and of its mirror image.
    #[module(skip)]
    flip: bool,
}

impl Classifier {
    /// Number of trainable parameters.
    pub fn num_parameters(&self) -> usize {
        self.model.num_parameters()
    }

    /// A classifier with fresh parameters, drawn from the device's random numbers. If the device
    /// lacks the configured precision, the classifier computes in the precision of its parameters.
    ///
    /// # Errors
    ///
    /// When the model refuses its config.
    pub fn new(config: &TrainConfig, device: &Device) -> Result<Self, ConfigError> {
        let mut network = config.model.clone();
        if let Some(model) = network.mopteqs_mut()
            && !model.core.precision.is_supported(device)
        {
            model.core.precision = Precision::Full;
        }
        Ok(Self {
            model: network.init(device)?,
            label_smoothing: config.label_smoothing,
            plain_steps: None,
            flip: config.test_flip,
        })
    }

    /// The same with exactly `steps` plain steps from 0 in inference, in place of its solver.
    pub fn with_plain_steps(mut self, steps: usize) -> Self {
        self.plain_steps = Some(steps);
        self
    }

    /// The same with or without the mirror image in inference.
    pub fn with_flip(mut self, flip: bool) -> Self {
        self.flip = flip;
        self
    }

    /// The same with a first kernel that whitens these plain pictures.
    pub fn whitened(mut self, images: &Tensor<4>) -> Self {
        self.model = self.model.whitened(images);
        self
    }

    /// Draws all parameters now. Burn draws them on first use, which may be after the random
    /// numbers were seeded for something else.
    pub fn materialised(self) -> Self {
        struct Touch;
        impl burn::module::ModuleVisitor for Touch {
            fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
                param.val();
            }
        }
        self.visit(&mut Touch);
        self
    }

    /// With all parameters in memory. Burn leaves what it loads in the file until the first
    /// computation, and by then the file may be gone.
    pub fn in_memory(self) -> Self {
        struct Copy;
        impl burn::module::ModuleMapper for Copy {
            fn map_float<const D: usize>(
                &mut self,
                param: burn::module::Param<Tensor<D>>,
            ) -> burn::module::Param<Tensor<D>> {
                param.map(|t| {
                    let (options, tracked) = ((t.device(), t.dtype()), t.is_require_grad());
                    let data = t.without_autodiff().into_data();
                    let bytes = data.as_bytes().to_vec();
                    let data =
                        TensorData::from_bytes_vec(bytes, data.shape().clone(), data.dtype());
                    Tensor::from_data(data, (&options.0, options.1)).set_require_grad(tracked)
                })
            }
        }
        self.map(&mut Copy)
    }

    /// Logits `[batch, classes]` of normalised pictures, and how the forward solve went.
    pub fn infer(&self, images: Tensor<4>) -> (Tensor<2>, Option<SolveStats>) {
        let count = images.dims()[0];
        let found = self.infer_first(images, count);
        (found.logits, SolveStats::of(&found.forward))
    }

    /// As [`infer`](Self::infer), with the report of the solves of the first `count` pictures.
    pub fn infer_first(&self, images: Tensor<4>, count: usize) -> Inferred {
        if !self.flip {
            return self.infer_once(images, count);
        }
        let found = self.infer_once(images.clone(), count);
        let mirrored = self.infer_once(images.flip([3]), count);
        Inferred {
            logits: (found.logits + mirrored.logits) * 0.5,
            forward: Report::worst([&found.forward, &mirrored.forward]),
            layers: found.layers,
        }
    }

    fn infer_once(&self, images: Tensor<4>, count: usize) -> Inferred {
        if let Some(steps) = self.plain_steps {
            return Inferred {
                logits: self.model.after_plain_steps(images, steps),
                forward: Report::default(),
                layers: Vec::new(),
            };
        }
        let mut prediction = self.model.forward(images);
        prediction.forward.truncate(count);
        for layer in &mut prediction.layers {
            layer.forward.truncate(count);
        }
        Inferred {
            logits: prediction.logits,
            forward: prediction.forward,
            layers: LayerStats::of(&prediction.layers),
        }
    }

    /// The model without the loss.
    pub fn network(&self) -> &Network {
        &self.model
    }

    /// The loss of a batch and its gradients. The model and the batch are on a device with
    /// autodiff.
    ///
    /// # Panics
    ///
    /// When the device fails, or the batch is on another device.
    pub fn step(&self, batch: Batch) -> TrainingStep {
        let labels = batch.targets.clone();
        let prediction = self.model.forward_labelled(batch.images, labels);
        let loss = self.loss(&prediction.logits, &batch.targets);
        let gradients = GradientsParams::from_grads(loss.backward(), self);
        let item = ClassificationItem {
            loss,
            logits: prediction.logits,
            targets: batch.targets,
            solver: SolverItem {
                forward: SolveStats::of(&prediction.forward),
                // The backward solve ran inside `backward()`, so its report is available now.
                backward: prediction
                    .adjoint
                    .report()
                    .as_ref()
                    .and_then(SolveStats::of),
                layers: LayerStats::of(&prediction.layers),
            },
        };
        TrainingStep { gradients, item }
    }

    fn loss(&self, logits: &Tensor<2>, targets: &Tensor<1, Int>) -> Tensor<1> {
        let smoothing = self.label_smoothing as f32;
        CrossEntropyLossConfig::new()
            .with_smoothing((smoothing > 0.0).then_some(smoothing))
            .init(&logits.device())
            .forward(logits.clone(), targets.clone())
    }
}

/// How the two solves of a batch went.
#[derive(Clone, Debug, Default)]
pub struct SolverItem {
    /// The solve for the equilibrium.
    pub forward: Option<SolveStats>,
    /// The solve for the gradient; in training only.
    pub backward: Option<SolveStats>,
    /// The solves of each layer of a stack.
    pub layers: Vec<LayerStats>,
}

/// What inference gives.
#[derive(Debug)]
pub struct Inferred {
    /// `[batch, classes]`.
    pub logits: Tensor<2>,
    /// Report of the solves. If there are several, it holds the worst one for each picture.
    pub forward: Report,
    /// The solves of each layer of a stack, without those of mirror images.
    pub layers: Vec<LayerStats>,
}

/// The outcome of one batch, for the metrics.
pub struct ClassificationItem {
    /// Mean cross entropy, `[1]`.
    pub loss: Tensor<1>,
    /// `[batch, classes]`.
    pub logits: Tensor<2>,
    /// `[batch]`.
    pub targets: Tensor<1, Int>,
    /// How the solver fared.
    pub solver: SolverItem,
}

/// What one training step computes.
pub struct TrainingStep {
    /// Gradients of the mean cross entropy.
    pub gradients: GradientsParams,
    /// Loss, logits and solver statistics.
    pub item: ClassificationItem,
}

/// The classifier in Burn's `Learner`.
#[cfg(feature = "learner")]
mod learner {
    use burn::tensor::ExecutionError;
    use burn::train::metric::{AccuracyInput, Adaptor, LossInput};
    use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};

    use super::{Batch, ClassificationItem, Classifier, SolverItem, TrainingStep};

    impl TrainStep for Classifier {
        type Input = Batch;
        type Output = ClassificationItem;

        fn step(&self, batch: Batch) -> TrainOutput<ClassificationItem> {
            let TrainingStep { gradients, item } = Classifier::step(self, batch);
            TrainOutput {
                grads: gradients,
                item,
            }
        }
    }

    impl InferenceStep for Classifier {
        type Input = Batch;
        type Output = ClassificationItem;

        fn step(&self, batch: Batch) -> ClassificationItem {
            let (logits, forward) = self.infer(batch.images);
            ClassificationItem {
                loss: self.loss(&logits, &batch.targets),
                logits,
                targets: batch.targets,
                solver: SolverItem {
                    forward,
                    ..SolverItem::default()
                },
            }
        }
    }

    impl Adaptor<AccuracyInput> for ClassificationItem {
        fn adapt(&self) -> AccuracyInput {
            AccuracyInput::new(self.logits.clone(), self.targets.clone())
        }
    }

    impl Adaptor<LossInput> for ClassificationItem {
        fn adapt(&self) -> LossInput {
            LossInput::new(self.loss.clone())
        }
    }

    impl ItemLazy for ClassificationItem {
        fn sync(self) -> Result<Self, ExecutionError> {
            // Starts the queued work and leaves the tape behind, because Burn computes its metrics
            // on another thread. It reads nothing back.
            self.loss.device().flush()?;
            Ok(Self {
                loss: self.loss.without_autodiff(),
                logits: self.logits.without_autodiff(),
                targets: self.targets.without_autodiff(),
                solver: self.solver,
            })
        }
    }
}
