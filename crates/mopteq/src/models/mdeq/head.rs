//! Classification head of an MDEQ.

use burn::module::{Module, RunningState};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNormConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::MdeqConfig;
use crate::context::Branches;
use crate::graph::{Builder, Value};
use crate::models::parts::Stem;

/// Ratio of a bottleneck's output channels to its inner ones.
pub(super) const EXPANSION: usize = 4;

/// A convolution followed by a batch norm and, as a [`Stem`], by a ReLU.
pub(super) fn conv_norm(
    [from, to]: [usize; 2],
    size: usize,
    stride: usize,
    bias: bool,
    device: &Device,
) -> Stem {
    Stem {
        conv: convolution([from, to], size, stride, bias, device),
        norm: BatchNormConfig::new(to).init(device),
    }
}

fn convolution(
    [from, to]: [usize; 2],
    size: usize,
    stride: usize,
    bias: bool,
    device: &Device,
) -> Conv2d {
    let p = size / 2;
    Conv2dConfig::new([from, to], [size, size])
        .with_stride([stride, stride])
        .with_padding(PaddingConfig2d::Explicit(p, p, p, p))
        .with_bias(bias)
        .init(device)
}

/// Batch norm without scale and shift, as in the published head.
#[derive(Module, Debug)]
struct FixedNorm {
    running_mean: RunningState<Tensor<1>>,
    running_var: RunningState<Tensor<1>>,
}

impl FixedNorm {
    const EPSILON: f64 = 1e-5;
    const MOMENTUM: f64 = 0.1;

    fn new(channels: usize, device: &Device) -> Self {
        Self {
            running_mean: RunningState::new(Tensor::zeros([channels], device)),
            running_var: RunningState::new(Tensor::ones([channels], device)),
        }
    }

    /// Uses the statistics of the batch with autodiff, and updates the running ones. Without
    /// autodiff, it uses the running ones. `[batch, channels, h, w]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let shape = [1, channels, 1, 1];
        let (mean, var) = if x.device().is_autodiff() {
            let mean = x.clone().mean_dims(&[0, 2, 3]);
            let centred = x.clone() - mean.clone();
            let var = (centred.clone() * centred).mean_dims(&[0, 2, 3]);
            let n = (batch * height * width) as f64;
            // The running variance is unbiased, as in PyTorch.
            let unbiased = var.clone() * (n / (n - 1.0).max(1.0));
            for (state, new) in [(&self.running_mean, &mean), (&self.running_var, &unbiased)] {
                let old = state.value_sync().without_autodiff();
                let new = new.clone().without_autodiff().reshape([channels]);
                let moved =
                    old.to_device(&new.device()) * (1.0 - Self::MOMENTUM) + new * Self::MOMENTUM;
                state.update(moved.autodiff());
            }
            (mean, var)
        } else {
            let plain = |s: &RunningState<Tensor<1>>| {
                let value = s.value_sync().without_autodiff().to_device(&x.device());
                value.reshape(shape)
            };
            (plain(&self.running_mean), plain(&self.running_var))
        };
        (x - mean) / (var + Self::EPSILON).sqrt()
    }

    fn operations(&self, graph: &mut Builder, x: Value) -> Value {
        let plain = |s: &RunningState<Tensor<1>>| s.value_sync().without_autodiff();
        let [mean, var] = [&self.running_mean, &self.running_var].map(plain);
        let var = var.to_device(&mean.device());
        let identity = [mean.ones_like(), mean.zeros_like()];
        graph.normalise(x, identity, [mean, var], Self::EPSILON)
    }
}

/// 1 x 1, 3 x 3 and 1 x 1 convolutions with a projected shortcut.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: Conv2d,
    bn1: FixedNorm,
    conv2: Conv2d,
    bn2: FixedNorm,
    conv3: Conv2d,
    bn3: FixedNorm,
    downsample: Option<Stem>,
}

impl Bottleneck {
    fn new(from: usize, inner: usize, device: &Device) -> Self {
        let to = inner * EXPANSION;
        Self {
            conv1: convolution([from, inner], 1, 1, false, device),
            bn1: FixedNorm::new(inner, device),
            conv2: convolution([inner, inner], 3, 1, false, device),
            bn2: FixedNorm::new(inner, device),
            conv3: convolution([inner, to], 1, 1, false, device),
            bn3: FixedNorm::new(to, device),
            downsample: (from != to).then(|| conv_norm([from, to], 1, 1, false, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(Stem { conv, norm }) => norm.forward(conv.forward(x.clone())),
            None => x.clone(),
        };
        let h = self.bn1.forward(self.conv1.forward(x)).clamp_min(0.0);
        let h = self.bn2.forward(self.conv2.forward(h)).clamp_min(0.0);
        let h = self.bn3.forward(self.conv3.forward(h));
        (h + shortcut).clamp_min(0.0)
    }

    fn operations(&self, graph: &mut Builder, x: Value) -> Value {
        let shortcut = match &self.downsample {
            Some(stem) => stem.without_relu(graph, x),
            None => x,
        };
        let parts = [
            (&self.conv1, &self.bn1),
            (&self.conv2, &self.bn2),
            (&self.conv3, &self.bn3),
        ];
        let mut h = x;
        for (k, (conv, norm)) in parts.into_iter().enumerate() {
            if k > 0 {
                h = graph.relu(h);
            }
            h = graph.module_convolution(h, conv);
            h = norm.operations(graph, h);
        }
        let sum = graph.combine(&[(1.0, shortcut), (1.0, h)]);
        graph.relu(sum)
    }
}

/// Widens all branches, merges them down to the coarsest one by one, and widens the result once
/// more.
#[derive(Module, Debug)]
pub(super) struct MdeqHead {
    incre_modules: Vec<Bottleneck>,
    downsamp_modules: Vec<Stem>,
    final_layer: Stem,
}

impl MdeqHead {
    pub(super) fn new(config: &MdeqConfig, device: &Device) -> Self {
        let heads = &config.head_channels;
        let widened: Vec<usize> = heads.iter().map(|c| c * EXPANSION).collect();
        let last = widened[widened.len() - 1];
        Self {
            incre_modules: config
                .channels
                .iter()
                .zip(heads)
                .map(|(from, inner)| Bottleneck::new(*from, *inner, device))
                .collect(),
            downsamp_modules: widened
                .windows(2)
                .map(|pair| conv_norm([pair[0], pair[1]], 3, 2, true, device))
                .collect(),
            final_layer: conv_norm([last, config.final_channels], 1, 1, true, device),
        }
    }

    /// `[batch, final channels, h, w]` at the coarsest resolution.
    pub(super) fn forward(&self, state: Branches) -> Tensor<4> {
        let mut widened = state
            .into_iter()
            .zip(&self.incre_modules)
            .map(|(z, module)| module.forward(z));
        let first = widened.next().expect("there are branches");
        let sum = widened
            .zip(&self.downsamp_modules)
            .fold(first, |y, (wide, down)| wide + down.forward(y));
        self.final_layer.forward(sum)
    }

    pub(super) fn operations(&self, graph: &mut Builder, state: &[Value]) -> Value {
        let modules = state.iter().zip(&self.incre_modules);
        let widened: Vec<Value> = modules
            .map(|(z, module)| module.operations(graph, *z))
            .collect();
        let mut sum = widened[0];
        for (wide, down) in widened[1..].iter().zip(&self.downsamp_modules) {
            let lower = down.operations(graph, sum);
            sum = graph.combine(&[(1.0, *wide), (1.0, lower)]);
        }
        self.final_layer.operations(graph, sum)
    }
}
