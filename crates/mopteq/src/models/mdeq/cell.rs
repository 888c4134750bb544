//! The map of an MDEQ: a residual block per branch, then fusion across all branches.

use burn::module::{Initializer, Module, Param};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use deq_kernels::convolution::convolve;

use super::MdeqConfig;
use crate::context::Branches;
use crate::graph::{Builder, Value};

/// A convolution without bias whose weight is g v / |v| for every output channel (weight
/// normalisation, Salimans and Kingma 2016, arXiv:1602.07868).
#[derive(Module, Debug)]
struct NormedConv {
    /// g, `[out, 1, 1, 1]`.
    weight_g: Param<Tensor<4>>,
    /// v, `[out, in, k, k]`.
    weight_v: Param<Tensor<4>>,
    stride: usize,
}

impl NormedConv {
    fn new([from, to]: [usize; 2], size: usize, stride: usize, device: &Device) -> Self {
        // PyTorch's initialisation of a convolution, as in the checkpoints.
        let initializer = Initializer::KaimingUniform {
            gain: 1.0 / 3f64.sqrt(),
            fan_out_only: false,
        };
        let fan = size * size;
        let weight_v: Param<Tensor<4>> = initializer.init_with(
            [to, from, size, size],
            Some(from * fan),
            Some(to * fan),
            device,
        );
        let length = length(weight_v.val().without_autodiff());
        let length = if device.is_autodiff() {
            length.autodiff()
        } else {
            length
        };
        Self {
            weight_g: Param::from_tensor(length),
            weight_v,
            stride,
        }
    }

    fn weight(&self) -> Tensor<4> {
        let v = self.weight_v.val();
        v.clone() * (self.weight_g.val() / length(v))
    }

    fn operations(&self, graph: &mut Builder, x: Value) -> Value {
        let weight = self.weight().without_autodiff();
        let half = weight.dims()[2] / 2;
        graph.convolution(x, weight, None, [self.stride; 2], [half; 2])
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight();
        let [_, _, k, _] = weight.dims();
        let (s, p) = (self.stride, k / 2);
        if s == 1 {
            return convolve(x, weight);
        }
        conv2d(x, weight, None, ConvOptions::new([s, s], [p, p], [1, 1], 1))
    }
}

/// |v| of every output channel, `[out, 1, 1, 1]`.
fn length(v: Tensor<4>) -> Tensor<4> {
    (v.clone() * v).sum_dims(&[1, 2, 3]).sqrt()
}

fn group_norm(groups: usize, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(groups, channels).init(device)
}

/// A residual block with two 3 x 3 convolutions.
#[derive(Module, Debug)]
struct Block {
    conv1: NormedConv,
    gn1: GroupNorm,
    conv2: NormedConv,
    gn2: GroupNorm,
    gn3: GroupNorm,
}

impl Block {
    fn forward(
        &self,
        x: Tensor<4>,
        injection: Option<Tensor<4>>,
        mask: Option<&Tensor<4>>,
    ) -> Tensor<4> {
        let h = self.gn1.forward(self.conv1.forward(x.clone()));
        let mut h = self.conv2.forward(h.clamp_min(0.0));
        if let Some(mask) = mask {
            h = h * mask.clone();
        }
        if let Some(injection) = injection {
            h = h + injection;
        }
        let h = self.gn2.forward(h) + x;
        self.gn3.forward(h.clamp_min(0.0))
    }

    fn operations(&self, graph: &mut Builder, x: Value, injection: Option<Value>) -> Value {
        let h = self.conv1.operations(graph, x);
        let h = graph.group_norm(h, &self.gn1);
        let h = graph.relu(h);
        let mut h = self.conv2.operations(graph, h);
        if let Some(injection) = injection {
            h = graph.combine(&[(1.0, injection), (1.0, h)]);
        }
        let h = graph.group_norm(h, &self.gn2);
        let h = graph.combine(&[(1.0, h), (1.0, x)]);
        let h = graph.relu(h);
        graph.group_norm(h, &self.gn3)
    }
}

#[derive(Module, Debug)]
struct Branch {
    blocks: Vec<Block>,
}

/// Convolution and group norm.
#[derive(Module, Debug)]
struct ConvNorm {
    conv: NormedConv,
    gnorm: GroupNorm,
}

impl ConvNorm {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.gnorm.forward(self.conv.forward(x))
    }

    fn operations(&self, graph: &mut Builder, x: Value) -> Value {
        let x = self.conv.operations(graph, x);
        graph.group_norm(x, &self.gnorm)
    }
}

/// From one branch to another: strided 3 x 3 convolutions to go down, a 1 x 1 convolution and
/// nearest up-sampling by `scale` to go up.
#[derive(Module, Debug)]
struct Fuse {
    net: Vec<ConvNorm>,
    scale: usize,
}

impl Fuse {
    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (k, part) in self.net.iter().enumerate() {
            if k > 0 {
                x = x.clamp_min(0.0);
            }
            x = part.forward(x);
        }
        if self.scale == 1 {
            return x;
        }
        let nearest = InterpolateOptions::new(InterpolateMode::Nearest);
        let s = self.scale as f32;
        interpolate(x, nearest.with_scale_factor([s, s]))
    }

    fn operations(&self, graph: &mut Builder, mut x: Value) -> Value {
        for (k, part) in self.net.iter().enumerate() {
            if k > 0 {
                x = graph.relu(x);
            }
            x = part.operations(graph, x);
        }
        graph.upsample(x, [self.scale; 2])
    }
}

/// The map. Field names are those of the published PyTorch modules.
#[derive(Module, Debug)]
pub(super) struct Cell {
    branches: Vec<Branch>,
    /// `[i][j]`: from branch j into branch i, `None` on the diagonal.
    fuse_layers: Vec<Vec<Option<Fuse>>>,
    post_fuse_layers: Vec<ConvNorm>,
}

impl Cell {
    pub(super) fn new(config: &MdeqConfig, device: &Device) -> Self {
        let (channels, groups) = (&config.channels, config.groups);
        let n = channels.len();
        let branch = |c: usize| {
            let wide = config.expansion * c;
            let block = |_| Block {
                conv1: NormedConv::new([c, wide], 3, 1, device),
                gn1: group_norm(groups, wide, device),
                conv2: NormedConv::new([wide, c], 3, 1, device),
                gn2: group_norm(groups, c, device),
                gn3: group_norm(groups, c, device),
            };
            Branch {
                blocks: (0..config.blocks).map(block).collect(),
            }
        };
        let fuse = |i: usize, j: usize| {
            let (from, to) = (channels[j], channels[i]);
            let part = |from, to, size, stride| ConvNorm {
                conv: NormedConv::new([from, to], size, stride, device),
                gnorm: group_norm(groups, to, device),
            };
            match j.cmp(&i) {
                std::cmp::Ordering::Equal => None,
                std::cmp::Ordering::Greater => Some(Fuse {
                    net: vec![part(from, to, 1, 1)],
                    scale: 1 << (j - i),
                }),
                std::cmp::Ordering::Less => {
                    let last = i - j - 1;
                    let step = |k| part(from, if k == last { to } else { from }, 3, 2);
                    Some(Fuse {
                        net: (0..=last).map(step).collect(),
                        scale: 1,
                    })
                }
            }
        };
        // A single branch has nothing to fuse with.
        let fused = if n > 1 { n } else { 0 };
        Self {
            branches: channels.iter().map(|c| branch(*c)).collect(),
            fuse_layers: (0..fused)
                .map(|i| (0..n).map(|j| fuse(i, j)).collect())
                .collect(),
            post_fuse_layers: channels[..fused]
                .iter()
                .map(|c| ConvNorm {
                    conv: NormedConv::new([*c, *c], 1, 1, device),
                    gnorm: group_norm(groups / 2, *c, device),
                })
                .collect(),
        }
    }

    /// One application. The injection enters the first block of the finest branch. `masks[i][k]`
    /// are the dropout masks of block k of branch i; `masks` may be empty.
    pub(super) fn forward(&self, z: Branches, x: (Tensor<4>, Vec<Branches>)) -> Branches {
        let (injection, masks) = x;
        let mut injection = Some(injection);
        let blocks: Branches = z
            .into_iter()
            .zip(&self.branches)
            .enumerate()
            .map(|(i, (z, branch))| {
                branch.blocks.iter().enumerate().fold(z, |z, (k, block)| {
                    block.forward(z, injection.take(), masks.get(i).map(|m| &m[k]))
                })
            })
            .collect();
        if self.fuse_layers.is_empty() {
            return blocks;
        }
        self.fuse_layers
            .iter()
            .zip(&self.post_fuse_layers)
            .map(|(layers, post)| {
                let parts = layers
                    .iter()
                    .zip(&blocks)
                    .map(|(layer, block)| match layer {
                        Some(layer) => layer.forward(block.clone()),
                        None => block.clone(),
                    });
                let sum = parts.reduce(|a, b| a + b).expect("there are branches");
                post.forward(sum.clamp_min(0.0))
            })
            .collect()
    }

    /// One application as operations of a graph.
    pub(super) fn operations(
        &self,
        graph: &mut Builder,
        z: &[Value],
        injection: Value,
    ) -> Vec<Value> {
        let mut injection = Some(injection);
        let branches = z.iter().zip(&self.branches);
        let blocks: Vec<Value> = branches
            .map(|(z, branch)| {
                branch
                    .blocks
                    .iter()
                    .fold(*z, |z, block| block.operations(graph, z, injection.take()))
            })
            .collect();
        if self.fuse_layers.is_empty() {
            return blocks;
        }
        let layers = self.fuse_layers.iter().zip(&self.post_fuse_layers);
        layers
            .map(|(layers, post)| {
                let parts = layers.iter().zip(&blocks);
                let parts: Vec<(f64, Value)> = parts
                    .map(|(layer, block)| match layer {
                        Some(layer) => (1.0, layer.operations(graph, *block)),
                        None => (1.0, *block),
                    })
                    .collect();
                let sum = graph.combine(&parts);
                let sum = graph.relu(sum);
                post.operations(graph, sum)
            })
            .collect()
    }
}
