"""Writes a checkpoint of an MDEQ in the layout of TorchDEQ's deq-zoo/mdeq/mdeq_cifar, and its outputs.

    python -m venv venv && venv/bin/pip install torch torchdeq safetensors numpy
    venv/bin/python benches/peers/mdeq_checkpoint.py FOLDER
    MOPTEQ_MDEQ_CHECKPOINT=FOLDER cargo test --release --workspace --test suite -- mdeq_checkpoint

The module tree below follows the published names and shapes; weight normalisation and the solver
are TorchDEQ's own. For each configuration, the script writes NAME.pth and NAME.safetensors (the
state dictionary) and NAME.outputs.safetensors (images, logits in evaluation mode) to FOLDER.
"""

import argparse
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torchdeq import get_deq
from torchdeq.norm import apply_norm, reset_norm

CONFIGURATIONS = {
    # channels, head channels, final channels, expansion, groups, halvings, picture side
    "tiny": ([4, 4], [1, 2], 6, 2, 2, 0, 8),
    "deep": ([8, 8, 16], [2, 3, 4], 12, 2, 4, 1, 16),
    "small": ([24, 24], [8, 16], 200, 5, 8, 0, 32),
}


def conv(a, b, k, stride=1, bias=False):
    return nn.Conv2d(a, b, k, stride=stride, padding=k // 2, bias=bias)


class Block(nn.Module):
    def __init__(self, c, expansion, groups):
        super().__init__()
        self.conv1 = conv(c, expansion * c, 3)
        self.gn1 = nn.GroupNorm(groups, expansion * c)
        self.conv2 = conv(expansion * c, c, 3)
        self.gn2 = nn.GroupNorm(groups, c)
        self.gn3 = nn.GroupNorm(groups, c)

    def forward(self, x, injection):
        h = F.relu(self.gn1(self.conv1(x)))
        h = self.gn2(self.conv2(h) + injection) + x
        return self.gn3(F.relu(h))


class Branch(nn.Module):
    def __init__(self, c, expansion, groups):
        super().__init__()
        self.blocks = nn.ModuleList([Block(c, expansion, groups)])

    def forward(self, x, injection):
        return self.blocks[0](x, injection)


def named(**parts):
    sequence = nn.Sequential()
    for name, part in parts.items():
        sequence.add_module(name, part)
    return sequence


class Fuse(nn.Module):
    def __init__(self, channels, j, i, groups):
        super().__init__()
        a, b = channels[j], channels[i]
        if j > i:
            up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
            self.net = named(conv=conv(a, b, 1), gnorm=nn.GroupNorm(groups, b), upsample=up)
        else:
            steps = []
            for k in range(i - j):
                last = k == i - j - 1
                c = b if last else a
                parts = dict(conv=conv(a, c, 3, 2), gnorm=nn.GroupNorm(groups, c))
                if not last:
                    parts["relu"] = nn.ReLU()
                steps.append(named(**parts))
            self.net = nn.Sequential(*steps)

    def forward(self, x):
        return self.net(x)


class Stage(nn.Module):
    def __init__(self, channels, expansion, groups):
        super().__init__()
        n = range(len(channels))
        self.branches = nn.ModuleList([Branch(c, expansion, groups) for c in channels])
        self.fuse_layers = nn.ModuleList(
            [nn.ModuleList([None if i == j else Fuse(channels, j, i, groups) for j in n]) for i in n]
        )
        self.post_fuse_layers = nn.ModuleList(
            [named(relu=nn.ReLU(), conv=conv(c, c, 1), gnorm=nn.GroupNorm(groups // 2, c)) for c in channels]
        )

    def forward(self, z, injection):
        y = [branch(x, u) for branch, x, u in zip(self.branches, z, injection)]
        out = []
        for i, post in enumerate(self.post_fuse_layers):
            out.append(post(sum(y[j] if i == j else self.fuse_layers[i][j](y[j]) for j in range(len(y)))))
        return out


class Bottleneck(nn.Module):
    def __init__(self, a, inner):
        super().__init__()
        b = 4 * inner
        self.conv1, self.bn1 = conv(a, inner, 1), nn.BatchNorm2d(inner, affine=False)
        self.conv2, self.bn2 = conv(inner, inner, 3), nn.BatchNorm2d(inner, affine=False)
        self.conv3, self.bn3 = conv(inner, b, 1), nn.BatchNorm2d(b, affine=False)
        self.downsample = nn.Sequential(conv(a, b, 1), nn.BatchNorm2d(b)) if a != b else None

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + (self.downsample(x) if self.downsample else x))


class MDEQ(nn.Module):
    def __init__(self, channels, heads, final, expansion, groups, halvings, classes=10):
        super().__init__()
        c = channels[0]
        self.channels = channels
        self.downsample = nn.Sequential(
            conv(3, c, 3, 2 if halvings >= 1 else 1), nn.BatchNorm2d(c), nn.ReLU(),
            conv(c, c, 3, 2 if halvings >= 2 else 1), nn.BatchNorm2d(c), nn.ReLU(),
        )
        plain = halvings == 0 and len(channels) <= 2
        self.stage0 = None if plain else nn.Sequential(conv(c, c, 1), nn.BatchNorm2d(c), nn.ReLU())
        self.full_stage = Stage(channels, expansion, groups)
        apply_norm(self.full_stage, norm_type="weight_norm")
        self.deq = get_deq(f_solver="fixed_point_iter", f_max_iter=100, f_tol=1e-6, f_stop_mode="rel")
        self.incre_modules = nn.ModuleList(
            [nn.Sequential(Bottleneck(a, h)) for a, h in zip(channels, heads)]
        )
        self.downsamp_modules = nn.ModuleList(
            [
                nn.Sequential(conv(4 * a, 4 * b, 3, 2, True), nn.BatchNorm2d(4 * b), nn.ReLU())
                for a, b in zip(heads, heads[1:])
            ]
        )
        self.final_layer = nn.Sequential(
            nn.Conv2d(4 * heads[-1], final, 1), nn.BatchNorm2d(final), nn.ReLU()
        )
        self.classifier = nn.Linear(final, classes)

    def forward(self, x):
        x = self.downsample(x)
        u = [self.stage0(x) if self.stage0 else x]
        batch, _, h, w = x.shape
        u += [torch.zeros(batch, c, h >> i, w >> i) for i, c in enumerate(self.channels) if i > 0]
        reset_norm(self.full_stage)
        z, info = self.deq(lambda *z: self.full_stage(z, u), [torch.zeros_like(t) for t in u])
        y = self.incre_modules[0](z[-1][0])
        for k, down in enumerate(self.downsamp_modules):
            y = self.incre_modules[k + 1](z[-1][k + 1]) + down(y)
        return self.classifier(self.final_layer(y).mean((2, 3))), info


def write(folder, name, configuration):
    *parts, side = configuration
    torch.manual_seed(7)
    model = MDEQ(*parts)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            # Distinct numbers as in a trained model, so that no tensor can be mistaken for another.
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif key.endswith("running_mean"):
                value.uniform_(-0.3, 0.3)
            elif ".gn" in key or "gnorm" in key or value.dim() == 1 and value.is_floating_point():
                value.add_(0.1 * torch.randn_like(value))
        # The last norm of the map mostly adds a constant. Such a map contracts, so it has a fixed
        # point, and every solver finds it.
        for key, value in model.state_dict().items():
            if "post_fuse_layers" in key and key.endswith("gnorm.weight"):
                value.mul_(0.03)
            if "post_fuse_layers" in key and key.endswith("gnorm.bias"):
                value.normal_()
        model.eval()
        images = torch.randn(3, 3, side, side)
        logits, info = model(images)
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    torch.save(state, folder / f"{name}.pth")
    save_file(state, folder / f"{name}.safetensors")
    save_file({"images": images, "logits": logits}, folder / f"{name}.outputs.safetensors")
    residual = float(info["rel_lowest"].max())
    count = sum(p.numel() for p in model.parameters())
    print(f"{name}: {count} parameters, relative residual {residual:.1e}, logits {logits[0, :3].tolist()}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=pathlib.Path)
    folder = arguments.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, configuration in CONFIGURATIONS.items():
        write(folder, name, configuration)


if __name__ == "__main__":
    main()
