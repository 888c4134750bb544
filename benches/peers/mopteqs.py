#!/usr/bin/env python3
"""MOptEqs small against the same network in PyTorch with TorchDEQ: solves, training steps,
evaluation and memory, on the same weights, pictures and tolerance, in one run.

    python3 benches/peers/mopteqs.py

The script creates a virtual environment in a temporary folder and installs the pinned peers there,
builds `benches/measure/src/bin/peers_mopteqs.rs`, and prints its tables as markdown. It needs Python 3.11 or newer
with `venv` and 6 GB of disk. torch.compile uses a C++ compiler if there is one. `--venv FOLDER`
keeps the environment for the next run. `--quick`, `--rounds N`, `--threads N` and `--only PART` (of
"S 32", "P 128", "ways", "memory", ...) shorten a run, `--all` lengthens it. `--batches N,N` selects
other batches. `--json FILE` writes all numbers, again after each batch.

The script also runs where cargo is missing and nothing can be installed. `--program FILE` names a
program that was built elsewhere. `--no-venv` uses the peers of the current interpreter:

    python3 benches/peers/mopteqs.py --device cuda --program FILE --no-venv --only "P 32"

How the numbers are measured:

- The Rust program trains each network for 20 steps on the embedded digits and writes its weights
  and pictures; both sides read these. There is no perturbation. 28 x 28 and 32 x 32 have one
  channel; 128 x 128 are the digits up-sampled, in three channels, with ImageNette's stem of stride
  4.
- Both sides stop a sample at the relative residual 1e-3, forward and backward, in f32, after at
  most 50 steps: burn-deq at |f(z) - z| / |f(z)|, TorchDEQ with its stop mode "rel", which is the
  same.
- Before any timing, both solve to 3e-7 and must agree: in the loss to 1e-4, in every gradient
  tensor to 1e-3 (in its Euclidean norm), and in the class of every evaluated picture. The pixels of
  the digits' background are all equal, so a rounding error moves them across a kink of relu
  together, and one such plane is 1e-3 of a gradient or more. Which planes these are depends on the
  order of additions, and therefore on the processor. So if a gradient is further off, PyTorch
  solves again for pictures that differ by 1e-6. If its own gradient moves as much, a kink is near:
  the script prints both figures and continues. Otherwise it ends. The tables show how far each
  contestant's gradients at 1e-3 are from PyTorch's at 3e-7: the largest distance over the tensors.
- The PyTorch side is written for speed: NHWC memory, pooling shared between pairs of branches,
  convolutions whose derivative is a convolution with the flipped kernel, parameters that are
  constants in the backward solve, torch.inference_mode for evaluation. The first table compares
  this with other ways. Only batch norm is in NCHW and norms are summed by hand, because in f32
  PyTorch's own are off by 1e-4 and 1e-5, which is visible in the gradients.
- "step" is a whole training step: bounded kernels (one power iteration), stem, injections, solve,
  head, loss, backward pass, SGD with momentum. It is wall time. So are "backward pass", the call of
  backward() in the step, and "evaluation", the network without gradients on running statistics.
- The solves are timed inside the step. Forward: the report's `elapsed`; the call of TorchDEQ's
  forward solver. Backward: the report's `elapsed`, which leaves out the closed-form Jacobian's
  set-up and one last product (they are in "backward pass"); for TorchDEQ, the time from the arrival
  of the gradient until it returns its statistics, including its initial taped evaluation of the
  map.
- "steps" are evaluations of the map or products with its Jacobian, as each side counts them: mean
  over the samples, forward + backward.
- Contestants take turns, in a different order each time, after one turn of warm-up. The tables show
  medians; a run of more than a second is timed three times. Each thread count has a separate
  Rust process, with RAYON_NUM_THREADS, and torch.set_num_threads.
- The learning rate is 1e-4, so that the weights hardly change.
- On a GPU, both sides wait for the device before they read a clock. The exception is burn-deq's
  report: its solve times include work that was queued before the solve. Compare "step", "backward
  pass" and "evaluation" there.
- On a GPU, PyTorch uses the fastest of its ways for each batch. It computes in f32, as on the CPU.
  `--tf32` allows TF32 in the timed runs. `--compiled` adds the ways with torch.compile.
- On a GPU, Burn may choose TF32 by itself. A disagreement is therefore printed and the run goes on.
  The exit status is 1 at the end.
- Memory: VmHWM of a fresh process after three training steps, and its difference to VmRSS before
  the first step, with network and pictures loaded.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

PINNED = ["torch==2.15.0", "torchdeq==0.1.0", "safetensors==0.8.0", "numpy==2.4.6"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE, TIGHT = 1e-3, 3e-7
# Largest accepted distance of gradients at the tight tolerance. If it is larger, PyTorch's own
# gradients must move by at least 1 / KINK of it when the pictures change by NUDGE.
GRADIENTS, KINK, NUDGE = 1e-3, 3, 1e-6
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


# ---------------------------------------------------------------- environment


def in_environment():
    """Runs this script again in a virtual environment that has the peers, unless told not to."""
    options = arguments()
    if options.no_venv:
        # Child processes must not create one either.
        os.environ["PEERS_INSIDE"] = "1"
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(options.venv or pathlib.Path(scratch) / "venv")
        python = folder / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
        command = [python, __file__, *sys.argv[1:]]
        environment = dict(os.environ, PEERS_INSIDE="1")
        sys.exit(subprocess.run(command, env=environment).returncode)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--venv", help="keep the virtual environment here")
    parser.add_argument("--no-venv", action="store_true",
                        help="use the peers of this interpreter")
    parser.add_argument("--program", help="a built peers_mopteqs, instead of cargo")
    parser.add_argument("--rounds", type=int, help="timed runs of each contestant (7)")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")],
                        help="batches for every section, such as 32,128,512")
    parser.add_argument("--only", action="append", help="only sections whose name has this in it")
    parser.add_argument("--threads", type=int, action="append", help="1 and 2 by default")
    parser.add_argument("--all", action="store_true",
                        help="every batch, picture and thread count together; an hour")
    parser.add_argument("--quick", action="store_true",
                        help="32 x 32, batch 32, 2 threads, 3 rounds")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (the program is built for it)")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in PyTorch on a GPU")
    parser.add_argument("--compiled", action="store_true",
                        help="also try torch.compile on a GPU")
    parser.add_argument("--json", help="write all numbers to this file")
    # A fresh process measures the memory of PyTorch.
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.quick else 7)
    return options


if __name__ == "__main__" and "PEERS_INSIDE" not in os.environ:
    in_environment()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import torchdeq  # noqa: E402
from safetensors.torch import load_file  # noqa: E402


# -------------------------------------------------------------------- network


class Convolution(torch.autograd.Function):
    """A convolution that keeps the resolution. Its derivative is the convolution with the flipped
    kernel, which oneDNN runs faster than autograd's choice."""

    @staticmethod
    def forward(x, kernel, flipped):
        return F.conv2d(x, kernel, padding=1)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        x, kernel, flipped = ctx.saved_tensors
        of_x = F.conv2d(g, flipped, padding=1) if ctx.needs_input_grad[0] else None
        of_kernel = None
        if ctx.needs_input_grad[1]:
            of_kernel = torch.nn.grad.conv2d_weight(x, kernel.shape, g, padding=1)
        return of_x, of_kernel, None


def flip(kernel):
    return kernel.flip(2, 3).transpose(0, 1)


def length(x):
    """|x|, more accurate than `norm`."""
    return (x * x).sum().sqrt()


class BoundedKernel(torch.nn.Module):
    """W min(1, bound / |W|), one power iteration per training step."""

    def __init__(self, weight, direction, bound):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty_like(weight))
        self.register_buffer("direction", torch.empty_like(direction))
        self.bound = bound

    def forward(self):
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                v = F.conv2d(self.direction, self.weight, padding=1)
                v = F.conv2d(v, flip(self.weight), padding=1)
                self.direction = v / length(v).clamp_min(1e-30)
        norm = length(F.conv2d(self.direction, self.weight, padding=1))
        return self.weight * (self.bound / norm).clamp_max(1.0)


def pool(x):
    """Q: average pooling by 2, times 2."""
    return F.avg_pool2d(x, 2, divisor_override=2)


def grow(x):
    """Q'."""
    return F.interpolate(x, scale_factor=2.0) * 0.5


class Network(torch.nn.Module):
    """MOptEqs small. `ways` says how the map is computed: `nhwc` memory, `kernels` ("conv",
    "transposed" or "paired"), `compiled` or not, and whether TorchDEQ differentiates by its
    `hook`."""

    def __init__(self, setup, weights, ways):
        super().__init__()
        self.setup, self.ways = setup, ways
        stem = weights["stem.conv.weight"]
        self.stem = torch.nn.Module()
        self.stem.conv = torch.nn.Conv2d(stem.shape[1], stem.shape[0], stem.shape[2],
                                         setup["stem_stride"], setup["stem_padding"], bias=False)
        self.stem.norm = torch.nn.BatchNorm2d(stem.shape[0])
        branches = range(setup["branches"])
        self.core = torch.nn.Module()
        self.core.kernels = torch.nn.ModuleList(
            BoundedKernel(weights[f"core.kernels.{i}.weight"],
                          weights[f"core.kernels.{i}.direction"], setup["norm_bound"])
            for i in branches)
        convolution = lambda w: torch.nn.Conv2d(w.shape[1], w.shape[0], 3, padding=1)
        self.injections = torch.nn.ModuleList(
            convolution(weights[f"injections.{i}.weight"]) for i in branches)
        self.head = torch.nn.Module()
        self.head.norms = torch.nn.ModuleList(
            torch.nn.BatchNorm2d(len(weights[f"head.norms.{i}.gamma"])) for i in branches)
        self.head.linear = torch.nn.Linear(*weights["head.linear.weight"].shape)
        self.load(weights)
        self.layout = torch.channels_last if ways["nhwc"] else torch.contiguous_format
        self.to(memory_format=self.layout)
        cell = {"s": self.inside, "p": self.outside}[setup["family"]]
        self.cell = torch.compile(cell, dynamic=False) if ways["compiled"] else cell

    def load(self, weights):
        """The tensors by their names, which Burn and PyTorch share except for batch norm."""
        def renamed(name):
            return name.replace(".gamma", ".weight").replace(".beta", ".bias")
        state = {renamed(name): value for name, value in weights.items()}
        state["head.linear.weight"] = state["head.linear.weight"].T
        missing, unexpected = self.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing), missing

    def context(self, images):
        """Kernels of W and W', injections."""
        # In f32, PyTorch's batch norm is inaccurate with NHWC memory.
        g = self.stem.norm(self.stem.conv(images).contiguous())
        g = F.relu(g).contiguous(memory_format=self.layout)
        injections = []
        for i, injection in enumerate(self.injections):
            g_i = F.avg_pool2d(g, 2**i) if i else g
            injections.append(injection(g_i))
        kernels = [kernel() for kernel in self.core.kernels]
        flipped = [flip(kernel).contiguous(memory_format=self.layout) for kernel in kernels]
        return kernels, flipped, injections

    def w(self, z, kernel, flipped):
        if self.ways["kernels"] == "paired":
            return Convolution.apply(z, kernel, flipped)
        return F.conv2d(z, kernel, padding=1)

    def w_transposed(self, h, kernel, flipped):
        match self.ways["kernels"]:
            case "paired":
                return Convolution.apply(h, flipped, kernel)
            case "transposed":
                return F.conv_transpose2d(h, kernel, padding=1)
        return F.conv2d(h, flipped, padding=1)

    def laplacian(self, z0, z1, z2):
        """L z of three branches. Pooling by 4 is pooling by 2 twice."""
        p = pool(z0)
        q, r = pool(p), pool(z1)
        from_0, from_1 = q - z2, grow(r - z2)
        near = p - z1
        return grow(near + grow(from_0)), from_1 - near, -from_0 - (r - z2)

    def inside(self, context, *z):
        """Family S: W'relu(Wz + c) - lambda L z."""
        out = []
        for z_i, l, kernel, flipped, c in zip(z, self.laplacian(*z), *context):
            h = F.relu(self.w(z_i, kernel, flipped) + c)
            out.append(self.w_transposed(h, kernel, flipped) - self.setup["coupling"] * l)
        return out

    def outside(self, context, *z):
        """Family P: relu(z - step (z - c + W'Wz + lambda L z))."""
        out, step = [], self.setup["step"]
        for z_i, l, kernel, flipped, c in zip(z, self.laplacian(*z), *context):
            h = self.w_transposed(self.w(z_i, kernel, flipped), kernel, flipped)
            out.append(F.relu(z_i - step * (z_i - c + h + self.setup["coupling"] * l)))
        return out

    def start(self, injections):
        """z = 0, as TorchDEQ flattens it: with NHWC memory, in that order."""
        shapes = [c.shape for c in injections]
        if self.ways["nhwc"]:
            shapes = [(b, h, w, c) for b, c, h, w in shapes]
        return [injections[0].new_zeros(shape) for shape in shapes]

    def map(self, context):
        """z -> f(z) for TorchDEQ."""
        kernels, flipped, injections = context
        constant = [[t.detach() for t in part] for part in context]

        def f(*z):
            # TorchDEQ tracks z for its backward solve, in which parameters are constants. With its
            # hook, one tape serves for both.
            tracked = torch.is_grad_enabled() and (self.ways["hook"] or not z[0].requires_grad)
            own = context if tracked else constant
            cell = self.cell
            if self.ways["nhwc"]:
                z = [t.permute(0, 3, 1, 2) for t in z]
            out = cell(own, *z)
            return [t.permute(0, 2, 3, 1) for t in out] if self.ways["nhwc"] else out
        return f

    def classify(self, z):
        pools = []
        for z_i, norm in zip(z, self.head.norms):
            if self.ways["nhwc"]:
                z_i = z_i.permute(0, 3, 1, 2)
            grid = [min(self.setup["head_grid"], n) for n in z_i.shape[2:]]
            pools.append(norm(F.adaptive_avg_pool2d(z_i, grid).contiguous()).flatten(1))
        return self.head.linear(torch.cat(pools, 1))


def ways(nhwc, kernels="conv", compiled=False, hook=False):
    return {"nhwc": nhwc, "kernels": kernels, "compiled": compiled, "hook": hook}


WAYS = {
    "NCHW, flipped kernel": ways(False),
    "NCHW, conv_transpose2d": ways(False, "transposed"),
    "NHWC, flipped kernel": ways(True),
    "NHWC, conv_transpose2d": ways(True, "transposed"),
    "NHWC, flipped kernel, hook_ift": ways(True, hook=True),
    "NHWC, own derivative": ways(True, "paired"),
    "NHWC, torch.compile": ways(True, compiled=True),
    "NHWC, own derivative, torch.compile": ways(True, "paired", compiled=True),
}
BEST = "NHWC, own derivative"

PLAIN = "plain iteration; implicit, plain iteration"
EXACT = {
    PLAIN: {"f_solver": "fixed_point_iter", "b_solver": "fixed_point_iter", "ift": True},
    "Anderson; implicit, plain iteration":
        {"f_solver": "anderson", "b_solver": "fixed_point_iter", "ift": True},
    "Anderson; implicit, Anderson":
        {"f_solver": "anderson", "b_solver": "anderson", "ift": True},
}
PHANTOM = "Anderson; phantom (inexact, the default)"
SETTINGS = EXACT | {PHANTOM: {"f_solver": "anderson"}}


# ---------------------------------------------------------------- contestants
#
# train() and evaluate() return dictionaries of numbers; times are in seconds.


class Torch:
    """The network in PyTorch with TorchDEQ."""

    def __init__(self, folder, setup, batch, settings, ways, *, tolerance=TOLERANCE, limit=50,
                 device="cpu"):
        self.device = device
        weights = load_file(folder / f"{setup['name']}.safetensors")
        self.network = Network(setup, weights, ways).to(device)
        images, labels = read_batch(folder, setup)
        images = images[:batch]
        images = images.contiguous(memory_format=self.network.layout)
        self.images, self.labels = images.to(device), labels[:batch].to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=LEARNING_RATE,
                                         momentum=MOMENTUM)
        self.tolerance = tolerance
        self.deq = torchdeq.get_deq(settings | {
            "core": "sliced", "hook_ift": settings.get("ift", False) and ways["hook"],
            "f_tol": tolerance, "b_tol": tolerance, "f_max_iter": limit, "b_max_iter": limit,
            "f_stop_mode": "rel", "b_stop_mode": "rel"})
        self.forward_seconds = 0.0
        solve = self.deq.f_solver

        def timed(*args, **kwargs):
            clock = self.now()
            result = solve(*args, **kwargs)
            self.forward_seconds = self.now() - clock
            return result
        self.deq.f_solver = timed

    def now(self):
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def counts(self, info):
        """Steps, and whether all samples converged."""
        return (float(info["nstep"].mean()), bool(info["rel_lowest"].max() < self.tolerance))

    def predict(self, writer=None):
        context = self.network.context(self.images)
        start = self.network.start(context[2])
        states, info = self.deq(self.network.map(context), start, backward_writer=writer)
        return states[-1], info

    def train(self, optimise=True):
        self.network.train()
        self.deq.train()
        arrival, backward = [0.0], {}

        def arrived(gradient):
            arrival[0] = self.now()

        def writer(info):
            backward["seconds"] = self.now() - arrival[0]
            backward["info"] = info

        clock = self.now()
        state, info = self.predict(writer)
        for z in state:
            z.register_hook(arrived)
        loss = F.cross_entropy(self.network.classify(state), self.labels)
        self.optimizer.zero_grad(set_to_none=True)
        begin = self.now()
        loss.backward()
        backward_pass = self.now() - begin
        if optimise:
            self.optimizer.step()
        loss = loss.item()
        seconds = self.now() - clock
        steps, converged = self.counts(info)
        # Counts come after the clock, because reading them waits for a GPU.
        products, solved = self.counts(backward["info"]) if "info" in backward else (0.0, True)
        return {"loss": loss, "step": seconds, "forward": self.forward_seconds,
                "backward": backward.get("seconds"), "backward_pass": backward_pass,
                "forward_steps": steps, "backward_steps": products,
                "converged": converged and solved}

    def evaluate(self):
        self.network.eval()
        self.deq.eval()
        clock = self.now()
        with torch.inference_mode():
            state, _ = self.predict()
            classes = self.network.classify(state).argmax(1).cpu()
        return {"evaluation": self.now() - clock, "classes": classes.tolist()}

    def gradients(self):
        """Loss and gradients by the names of the weights' file."""
        result = self.train(optimise=False)
        norms = {name for name, module in self.network.named_modules()
                 if isinstance(module, torch.nn.BatchNorm2d)}
        gradients = {}
        for name, parameter in self.network.named_parameters():
            module, _, kind = name.rpartition(".")
            if module in norms:
                kind = {"weight": "gamma", "bias": "beta"}[kind]
            gradients[f"{module}.{kind}"] = parameter.grad.cpu().double()
        gradients["head.linear.weight"] = gradients["head.linear.weight"].T
        return result, gradients


class Program:
    """The Rust program, which answers line by line."""

    def __init__(self, program, folder, threads, device):
        environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
        self.process = subprocess.Popen([program, folder, device], env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("the Rust program ended; its error is above")
        return json.loads(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Rust:
    """The network in Burn, in a separate process."""

    def __init__(self, program, folder, setup, batch, *, tolerance=None, limit=None):
        self.program, self.folder, self.name = program, folder, setup["name"]
        self.fixed = {"name": setup["name"], "batch": batch, "tolerance": tolerance,
                      "limit": limit}

    def train(self):
        return self.program.ask(what="train", **self.fixed)

    def evaluate(self):
        return self.program.ask(what="evaluate", **self.fixed)

    def gradients(self):
        result = self.program.ask(what="gradients", **self.fixed)
        tensors = load_file(self.folder / "gradients.safetensors")
        buffers = ("running_mean", "running_var", "direction")
        return result, {name: g.double() for name, g in tensors.items()
                        if not name.endswith(buffers)}


def read_batch(folder, setup):
    images = np.fromfile(folder / f"{setup['name']}.images", "<f4").reshape(setup["shape"])
    labels = np.fromfile(folder / f"{setup['name']}.labels", "<i8")
    return torch.tensor(images), torch.tensor(labels)


# ----------------------------------------------------------------- comparison


def distances(gradients, reference):
    """|g - r| / |r| of every tensor."""
    assert gradients.keys() == reference.keys(), gradients.keys() ^ reference.keys()
    return {name: float((gradients[name] - r).norm() / r.norm()) for name, r in reference.items()}


def farthest(gradients, reference):
    all = distances(gradients, reference)
    name = max(all, key=all.get)
    return all[name], name


def kinks(torch_side, reference):
    """How far PyTorch's own gradients move, tensor by tensor, when the pictures change by NUDGE:
    next to a kink of relu about as far as they are from Burn's, elsewhere almost not at all."""
    moved = dict.fromkeys(reference, 0.0)
    # Several nudges, because a plane may cross its kink in one direction only.
    for nudge in (-NUDGE, NUDGE, -NUDGE / 4, NUDGE / 4):
        # A separate network, because a training step moves running statistics and power iterations.
        side = torch_side()
        side.images = side.images * (1 + nudge) + nudge
        for name, distance in distances(side.gradients()[1], reference).items():
            moved[name] = max(moved[name], distance)
    return moved


DISAGREEMENTS = []


def disagree(message, device):
    """Ends the program on the CPU. On a GPU, it keeps the message and goes on."""
    if device == "cpu":
        raise SystemExit(message)
    print(message, file=sys.stderr, flush=True)
    DISAGREEMENTS.append(message)


def agree(rust, folder, setup, batch, way, device):
    """Calls `disagree` unless both sides agree at a tight tolerance, or differ only in gradients
    that a nearby kink of relu makes undefined to that extent. Returns PyTorch's gradients and loss
    there and a line to print."""
    choose_kernels(fastest=False, tf32=False)
    tight = {"tolerance": TIGHT, "limit": 300}
    ours = Rust(rust, folder, setup, batch, **tight)

    def torch_side():
        return Torch(folder, setup, batch, EXACT[PLAIN], WAYS[way], device=device, **tight)
    theirs = torch_side()
    # Evaluate first: training moves the running statistics (PyTorch's use the unbiased variance).
    differ = sum(a != b for a, b in zip(ours.evaluate()["classes"], theirs.evaluate()["classes"]))
    (we, gradients), (they, reference) = ours.gradients(), theirs.gradients()
    where = f"{setup['name']}, batch {batch}, tolerance {TIGHT:g}"
    for side, result in (("Burn", we), ("PyTorch", they)):
        if not result["converged"]:
            print(f"{where}: {side} did not converge", file=sys.stderr)
    loss = abs(we["loss"] - they["loss"]) / abs(they["loss"])
    worst, name = farthest(gradients, reference)
    facts = (f"loss {we['loss']:.6f} and {they['loss']:.6f} ({loss:.1e} apart), gradients at most "
             f"{worst:.1e} apart ({name}), {differ} of {batch} classes differ")
    if not (loss <= 1e-4 and differ == 0):
        disagree(f"{where}: Burn and PyTorch disagree: {facts}", device)
    far = {n: d for n, d in distances(gradients, reference).items() if not d <= GRADIENTS}
    if far:
        moved = kinks(torch_side, reference)
        seen = ", ".join(f"{n} by {d:.1e} (PyTorch's own moves by {moved[n]:.1e})"
                         for n, d in far.items())
        if not all(d <= KINK * moved[n] for n, d in far.items()):
            disagree(f"{where}: Burn and PyTorch disagree: {facts}. Further than {GRADIENTS:g} "
                     f"apart, with no kink of relu near: {seen}", device)
            return reference, they["loss"], f"{where}: {facts}, with no kink of relu near"
        facts += f"; next to a kink of relu, {seen}"
    return reference, they["loss"], f"{where}: {facts}"


# ----------------------------------------------------------------------- race


class Entry:
    """A contestant and its times."""

    def __init__(self, library, setting, contestant, reference, loss, labels):
        self.library, self.setting, self.contestant = library, setting, contestant
        classes = contestant.evaluate()["classes"]
        result, gradients = contestant.gradients()
        self.loss = abs(result["loss"] - loss) / abs(loss)
        self.error = farthest(gradients, reference)[0]
        self.result = result
        self.accuracy = 100 * sum(a == b for a, b in zip(classes, labels)) / len(labels)
        self.times = {}

    def slow(self):
        steps = self.times.get("step", [])
        return len(steps) >= 3 and min(steps) > 1

    def run(self, record):
        if self.slow():
            return
        trained = self.contestant.train()
        numbers = trained | self.contestant.evaluate()
        for key in ("forward", "backward", "backward_pass", "step", "evaluation"):
            if record and numbers[key] is not None:
                self.times.setdefault(key, []).append(numbers[key])

    def median(self, key):
        return statistics.median(self.times[key]) if key in self.times else None

    def summary(self):
        times = {key: self.median(key) for key in self.times}
        return {"library": self.library, "setting": self.setting, "seconds": times,
                "forward_steps": self.result["forward_steps"],
                "backward_steps": self.result["backward_steps"],
                "converged": self.result["converged"], "loss_error": self.loss,
                "gradient_error": self.error, "accuracy": self.accuracy}


COLUMNS = {"forward": "forward solve", "backward": "backward solve",
           "backward_pass": "backward pass", "step": "step", "evaluation": "evaluation"}


def race(entries, rounds):
    for turn in range(rounds + 1):
        # A different order each time, so that no contestant always follows the same one.
        shift = turn % len(entries)
        for entry in entries[shift:] + entries[:shift]:
            # Threads of the previous contestant go to sleep.
            time.sleep(0.005)
            entry.run(record=turn >= 1)


def milliseconds(seconds):
    return "-" if seconds is None else f"{1e3 * seconds:.{1 if seconds < 0.1 else 0}f}"


def entry_row(batch, entry):
    times = [milliseconds(entry.median(key)) for key in COLUMNS]
    steps = f"{entry.result['forward_steps']:.1f} + {entry.result['backward_steps']:.1f}"
    if not entry.result["converged"]:
        steps += " (not converged)"
    return [batch, entry.library, entry.setting, *times, steps, f"{entry.loss:.0e}",
            f"{entry.error:.0e}", f"{entry.accuracy:.1f}"]


def best_exact(entries):
    exact = [e for e in entries if e.setting in EXACT]
    return min([e for e in exact if e.result["converged"]] or exact, key=lambda e: e.median("step"))


def ratio(a, b):
    return "-" if a is None or b is None else f"{a / b:.2f}"


# --------------------------------------------------------------------- memory


def status(process, field):
    """VmHWM or VmRSS of a process in MiB."""
    text = pathlib.Path(f"/proc/{process}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


def memory_of_torch(folder, setup, batch, setting, threads):
    """In a fresh process: see `remember`."""
    task = json.dumps({"folder": str(folder), "setup": setup, "batch": batch, "setting": setting,
                       "threads": threads})
    command = [sys.executable, __file__, "--memory", task]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer)


def remember(task):
    """Prints VmRSS before three training steps and VmHWM after them."""
    torch.set_num_threads(task["threads"])
    contestant = Torch(pathlib.Path(task["folder"]), task["setup"], task["batch"],
                       SETTINGS[task["setting"]], WAYS[BEST])
    before = status(os.getpid(), "VmRSS")
    for _ in range(3):
        contestant.train()
    print(json.dumps([before, status(os.getpid(), "VmHWM")]))


def memory_of_rust(program, folder, setup, batch, threads):
    rust = Program(program, folder, threads, "cpu")
    contestant = Rust(rust, folder, setup, batch)
    rust.ask(what="load", **contestant.fixed)
    before = status(rust.process.pid, "VmRSS")
    for _ in range(3):
        contestant.train()
    peak = status(rust.process.pid, "VmHWM")
    rust.close()
    return [before, peak]


# --------------------------------------------------------------------- output


def markdown(heads, rows, words):
    print("| " + " | ".join(heads) + " |")
    print("|" + "|".join("---" if i in words else "---:" for i in range(len(heads))) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)


def plural(threads):
    return "1 thread" if threads == 1 else f"{threads} threads"


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    name = fields.get("model name", platform.processor())
    wide = "AVX-512" if "avx512f" in fields.get("flags", "").split() else "no AVX-512"
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} processors, {name}, {wide}; load {load:.1f} at the start"


def card(device):
    return "" if device == "cpu" else f"; {torch.cuda.get_device_name()}"


def rust_version(options):
    if options.program:
        return "Rust program built before"
    told = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout
    return f"Rust {told.split()[1]}"


def versions(options):
    """Versions of the peers: the pinned ones, or the installed ones with `--no-venv`."""
    if not options.no_venv:
        return ", ".join(PINNED).replace("==", " ")
    names = [peer.split("==")[0] for peer in PINNED]
    found = dict.fromkeys(names, "of unknown version")
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass  # A plain folder on PYTHONPATH has no version.
    return ", ".join(f"{name} {version}" for name, version in found.items())


def build(device):
    command = ["cargo", "build", "--release", "--locked", "-p", "measure", "--bin",
               "peers_mopteqs", "--message-format=json-render-diagnostics"]
    if device != "cpu":
        command += ["-p", "mopteq-train", "--features", f"mopteq-train/{device}"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = (json.loads(line) for line in lines.stdout.splitlines())
    return next(a["executable"] for a in artifacts
                if a.get("target", {}).get("name") == "peers_mopteqs" and a.get("executable"))


def times_of_ways(folder, setup, batch, rounds, device, compiled):
    """Median times of the ways to run the map in PyTorch, in the order of the columns."""
    entries = {}
    for name, ways in WAYS.items():
        if ways["compiled"] and not (compiled and any(map(compiler, ("c++", "g++", "clang++")))):
            continue
        entries[name] = (Torch(folder, setup, batch, EXACT[PLAIN], ways, device=device), [])
    for turn in range(rounds + 1):
        for contestant, times in entries.values():
            result = contestant.train() | contestant.evaluate()
            if turn >= 1:
                times.append([result[key] for key in COLUMNS])
    return {name: [statistics.median(t) for t in zip(*times)]
            for name, (_, times) in entries.items()}


def fastest_way(folder, setup, batch, options):
    """The way for the race: always the same on the CPU, the one with the shortest step on a GPU."""
    if options.device == "cpu":
        return BEST
    choose_kernels(fastest=True, tf32=options.tf32)
    times = times_of_ways(folder, setup, batch, 3, options.device, options.compiled)
    return min(times, key=lambda name: times[name][list(COLUMNS).index("step")])


def choose_kernels(*, fastest, tf32):
    """Sets PyTorch's GPU kernels: the fastest of a trial or the usual ones, with TF32 or without.
    PyTorch's default allows TF32 in convolutions."""
    torch.backends.cudnn.benchmark = fastest
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32


def ways_table(folder, setup, rounds, device):
    """Times of the ways to run the map in PyTorch: the obvious ones and the one in the race."""
    times = times_of_ways(folder, setup, 32, rounds, device, True)
    rows = [[name, *map(milliseconds, medians)] for name, medians in times.items()]
    markdown(["PyTorch's way", *COLUMNS.values()], rows, {0})
    return rows


OURS = "Anderson; implicit, conjugate gradients"


def section(rust, folder, setup, batches, options, keep):
    """Checks, races and prints one network. Gives the entries of every batch to `keep`."""
    rows, ratios, notes = [], [], []
    labels = read_batch(folder, setup)[1].tolist()
    for batch in batches:
        way = fastest_way(folder, setup, batch, options)
        reference, loss, note = agree(rust, folder, setup, batch, way, options.device)
        notes.append(note if way == BEST else f"{note} (PyTorch's way: {way})")
        choose_kernels(fastest=True, tf32=options.tf32)
        contestants = [("burn-deq", OURS, Rust(rust, folder, setup, batch))] + [
            ("TorchDEQ", setting,
             Torch(folder, setup, batch, solvers, WAYS[way], device=options.device))
            for setting, solvers in SETTINGS.items()]
        entries = [Entry(*contestant, reference, loss, labels[:batch])
                   for contestant in contestants]
        race(entries, options.rounds)
        rows += [entry_row(batch, entry) for entry in entries]
        peer = best_exact(entries)
        ratios.append([batch, peer.setting,
                       *(ratio(entries[0].median(key), peer.median(key)) for key in COLUMNS)])
        keep(batch, way, entries, note)
        rust.ask(what="forget")
    markdown(["batch", "library", "forward; gradient", *COLUMNS.values(), "steps", "loss off by",
              "gradient off by", "accuracy"], rows, {1, 2})
    print("Time of burn-deq over that of TorchDEQ's best exact setting:\n")
    markdown(["batch", "TorchDEQ's setting", *COLUMNS.values()], ratios, {1})
    print("Agreement: " + "; ".join(notes) + ".\n", flush=True)


def memory_table(program, folder, setups, batches, threads):
    rows = []
    for family in "SP":
        setup = setups[family, 32]
        for batch in batches:
            found = {("burn-deq", OURS): memory_of_rust(program, folder, setup, batch, threads)}
            for setting in SETTINGS:
                found["TorchDEQ", setting] = memory_of_torch(folder, setup, batch, setting,
                                                             threads)
            rows += [[family, batch, *who, round(before), round(peak), round(peak - before)]
                     for who, (before, peak) in found.items()]
    markdown(["family", "batch", "library", "forward; gradient", "before", "peak", "difference"],
             rows, {0, 2, 3})
    return rows


def compiler(name):
    return any((pathlib.Path(folder) / name).exists() for folder in os.get_exec_path())


def sections(options):
    """(threads, family, side, batches)."""
    return [(*where, options.batches or batches)
            for *where, batches in sections_by_default(options)]


def sections_by_default(options):
    threads = options.threads or ([2] if options.quick else [2, 1])
    if options.quick:
        return [(count, family, 32, [32]) for count in threads for family in "SP"]
    if options.all:
        return [(count, family, side, [1, 32, 128])
                for count in threads for family in "SP" for side in (32, 28, 128)]
    chosen = [("S", 32, [1, 32, 128]), ("P", 32, [1, 32, 128]), ("S", 28, [1, 32]),
              ("P", 28, [1, 32]), ("S", 128, [1, 32]), ("P", 128, [1, 32])]
    first = [(threads[0], *section) for section in chosen]
    return first + [(count, family, 32, [1, 32]) for count in threads[1:] for family in "SP"]


def main():
    options = arguments()
    if options.memory:
        return remember(json.loads(options.memory))
    wanted = lambda name: not options.only or any(part in name for part in options.only)
    device = options.device
    print(f"Machine: {machine()}{card(device)}. {rust_version(options)}; {versions(options)}; "
          f"Python {platform.python_version()}. Medians of {options.rounds} runs, "
          "milliseconds.\n")
    program = options.program or build(device)
    choose_kernels(fastest=device != "cpu", tf32=options.tf32)
    record = {"machine": machine() + card(device), "versions": versions(options), "sections": []}
    chosen = [s for s in sections(options) if wanted(f"{s[1]} {s[2]}")]
    threads = options.threads[0] if options.threads else 2
    names = {(family, side) for _, family, side, _ in chosen}
    if wanted("memory"):
        names |= {("S", 32), ("P", 32)}
    if wanted("ways"):
        names |= {("S", 32)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        exporter = Program(program, folder, os.cpu_count(), device)
        setups = {(family, side): exporter.ask(what="export", name=f"{family} {side}",
                                               family=family.lower(), side=side,
                                               pictures=max(128, *options.batches or [1]), steps=20)
                  for family, side in sorted(names)}
        exporter.close()
        if wanted("ways") and not options.quick:
            print(f"### PyTorch's ways, family S, 32 x 32, batch 32, {plural(threads)}\n")
            torch.set_num_threads(threads)
            record["ways"] = ways_table(folder, setups["S", 32], min(options.rounds, 5), device)
        for count, family, side, batches in chosen:
            print(f"### Family {family}, {side} x {side}, {plural(count)}\n")
            torch.set_num_threads(count)
            rust = Program(program, folder, count, device)

            def keep(batch, way, entries, note):
                record["sections"].append({
                    "family": family, "side": side, "threads": count, "batch": batch, "way": way,
                    "agreement": note, "entries": [entry.summary() for entry in entries]})
                write(options.json, record)
            section(rust, folder, setups[family, side], batches, options, keep)
            rust.close()
        if wanted("memory") and device == "cpu" and platform.system() == "Linux":
            print(f"### Memory of a training step, 32 x 32, {plural(threads)}, MiB\n")
            batches = [32] if options.quick else [32, 128]
            record["memory"] = memory_table(program, folder, setups, batches, threads)
    write(options.json, record)
    if DISAGREEMENTS:
        sys.exit(1)


def write(path, record):
    """Replaces the file in one step, so that a reader never sees half of it."""
    if path:
        new = pathlib.Path(f"{path}.new")
        new.write_text(json.dumps(record, indent=1))
        new.replace(path)


if __name__ == "__main__":
    main()
