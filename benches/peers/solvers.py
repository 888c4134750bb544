#!/usr/bin/env python3
"""Solvers and gradients of burn-deq against TorchDEQ and jaxopt, on the same maps, in one run.

    python3 benches/peers/solvers.py

The script creates a virtual environment in a temporary folder and installs the pinned peers there,
builds `benches/measure/src/bin/peers.rs`, writes the problems to files that all three libraries read, and prints
what docs/benchmarks.md shows. It needs Python 3.11 or newer with `venv` and 6 GB of disk: PyPI's
torch includes its CUDA libraries and does not start without them, although everything runs on the
CPU. `--venv FOLDER` keeps the environment for the next run; `--rounds N` and `--only NAME` shorten
a run.

How the numbers are measured:

- Every problem is z = f(z). Matrices, dtype, start and tolerance are the same for all libraries.
- f counts its own calls (jaxopt, which compiles f, reports them). An evaluation is one call on a
  batch; "per sample" is the total number of rows divided by the batch.
- The residual is computed here in f64 from the state that the library returned: the largest |f(z) -
  z| / |f(z)| over the samples.
- Times are medians. Solvers take turns, after two turns of warm-up. A run of more than a second is
  timed three times, a run of more than ten seconds once, and no other settings are tried for it.
  JAX is compiled in the warm-up. The Rust program is a separate process that measures its own time.
- TorchDEQ stops by the same relative rule. jaxopt knows only an absolute tolerance. It gets the
  relative one times the norm of each sample's solution, which a user would not know beforehand.
- jaxopt solves one problem at a time: batches go through jax.vmap.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time

PINNED = ["torch==2.15.0", "torchdeq==0.1.0", "jax==0.10.2", "jaxlib==0.10.2", "jaxopt==0.8.5"]
ROOT = pathlib.Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- environment


def in_environment():
    """Runs this script again in a virtual environment that has the peers."""
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(options.venv or pathlib.Path(scratch) / "venv")
        python = folder / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
        # numpy only creates and checks problems.
        environment = dict(os.environ, PEERS_INSIDE="1", JAX_PLATFORMS="cpu",
                           OPENBLAS_NUM_THREADS="1")
        # If these are set for another processor, numpy fails or is slow.
        for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
            environment.pop(name, None)
        command = [python, __file__, *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=environment).returncode)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", help="keep the virtual environment here")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each solver")
    parser.add_argument("--only", action="append", help="only problems whose name has this in it")
    return parser.parse_args()


if __name__ == "__main__" and "PEERS_INSIDE" not in os.environ:
    in_environment()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jaxopt  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchdeq  # noqa: E402
from torchdeq.solver import get_solver  # noqa: E402

jax.config.update("jax_enable_x64", True)


# ------------------------------------------------------------------- problems


class Problem:
    """z = f(z) with scale s [b, 1], matrix a [n, n], input x [b, n], start z [b, n]."""

    def __init__(self, name, map, relative, *, s=None, a=None, x=None, z=None, single=False,
                 max_steps=300):
        b, n = next(v.shape for v in (x, z) if v is not None)
        zeros = np.zeros
        self.name, self.map, self.relative, self.max_steps = name, map, relative, max_steps
        self.batch, self.width, self.single = b, n, single
        self.data = {
            "s": zeros((b, 1)) if s is None else s,
            "a": zeros((n, n)) if a is None else a,
            "x": zeros((b, n)) if x is None else x,
            "z": zeros((b, n)) if z is None else z,
            "c": np.random.default_rng(5).standard_normal((b, n)),
        }
        if single:
            # Representable in f32, so that all libraries see the same numbers.
            self.data = {k: v.astype(np.float32).astype(np.float64) for k, v in self.data.items()}

    def write(self, folder):
        fields = ("map", "batch", "width", "single", "relative", "max_steps")
        text = json.dumps({k: getattr(self, k) for k in fields})
        (folder / f"{self.name}.json").write_text(text)
        for key, values in self.data.items():
            values.astype("<f8").tofile(folder / f"{self.name}.{key}")

    def f(self, library, z, s, a, x):
        """f in numpy, torch or jax.numpy."""
        match self.map:
            case "affine":
                return z @ a + x
            case "scaled affine":
                return (z @ a) * s + x
            case "tanh":
                return library.tanh(z @ a + x)
            case "cosine":
                return library.cos(z)
            case "shifted tanh":
                return library.tanh(z + 1.0)
            case "heron":
                return (z + 2.0 / z) * 0.5
            case "slope -2":
                return z * -2.0 + 1.0
            case "kepler":
                return library.sin(z) * s + x

    def of(self, make):
        """s, a, x and z as arrays of a library, in the problem's dtype."""
        return [make(self.data[k]) for k in "saxz"]

    def torch(self):
        dtype = torch.float32 if self.single else torch.float64
        return self.of(lambda v: torch.tensor(v, dtype=dtype))

    def jax(self):
        return self.of(lambda v: jnp.asarray(v, dtype=jnp.float32 if self.single else jnp.float64))

    def residual(self, z):
        s, a, x, _ = self.of(lambda v: v)
        z = z.astype(np.float64).reshape(self.batch, self.width)
        if not np.isfinite(z).all():
            return float("nan")
        image = self.f(np, z, s, a, x)
        norm = lambda v: np.linalg.norm(v, axis=1)
        return float((norm(image - z) / norm(image)).max())

    @functools.cached_property
    def solution_norms(self):
        """|z*| of each sample, [b], by Newton's method in f64."""
        s, a, x, z = self.of(jnp.asarray)
        one = lambda z, s, x: self.f(jnp, z, s, a, x) - z
        step = jax.jit(jax.vmap(
            lambda z, s, x: z - jnp.linalg.solve(jax.jacobian(one)(z, s, x), one(z, s, x))))
        if self.map == "tanh":
            # A dense Jacobian for each sample would be large, and these maps contract.
            for _ in range(100):
                z = self.f(jnp, z, s, a, x)
        else:
            for _ in range(12):
                z = step(z, s, x)
        assert self.residual(np.asarray(z)) < 1e-10, self.name
        return np.linalg.norm(np.asarray(z), axis=1)


def problems():
    rng = np.random.default_rng(1)
    orthogonal = lambda n: np.linalg.qr(rng.standard_normal((n, n)))[0]

    def symmetric(n, spectrum):
        q = orthogonal(n)
        return (q * spectrum) @ q.T

    slow = symmetric(200, np.linspace(-0.95, 0.95, 200))
    yield ("slow affine, n = 200, eigenvalues -0.95 to 0.95, f64, tolerance 1e-5", [
        Problem("slow affine", "affine", 1e-5, a=slow, x=rng.standard_normal((1, 200)))])

    dense = rng.standard_normal((1024, 1024))
    # The norm of a Gaussian matrix is close to 2 sqrt(n).
    dense *= 1.5 / (2 * 32)
    yield ("dense tanh, 64 x 1024, norm of W about 1.5, f32, tolerance 1e-4", [
        Problem("dense tanh", "tanh", 1e-4, a=dense, x=0.3 * rng.standard_normal((64, 1024)),
                single=True)])

    jordan = 0.5 * np.eye(30) + 0.8 * np.eye(30, k=1)
    yield ("non-normal affine, n = 30, one Jordan-like block (0.5, 0.8), f64, tolerance 1e-8", [
        Problem("non-normal", "affine", 1e-8, a=jordan, x=np.ones((1, 30)))])

    one = lambda v: np.array([[float(v)]])
    scalar = lambda name, **data: Problem(name, name, 1e-9, **({"z": one(0.0)} | data))
    yield ("five scalar maps, one after the other (cos z; tanh(z + 1); Heron's root of 2; -2z + 1; "
           "Kepler, e = 0.9), f64, tolerance 1e-9", [
        scalar("cosine"),
        scalar("shifted tanh"),
        scalar("heron", z=one(0.5)),
        scalar("slope -2"),
        scalar("kepler", s=one(0.9), x=one(0.5))])

    scales = np.geomspace(0.02, 0.95, 32)[:, None]
    mixed = symmetric(128, np.linspace(-1, 1, 128))
    yield ("mixed batch, 32 affine maps, n = 128, of norm 0.02 to 0.95, f64, tolerance 1e-5", [
        Problem("mixed batch", "scaled affine", 1e-5, s=scales, a=mixed,
                x=rng.standard_normal((32, 128)))])


# ------------------------------------------------------------------ libraries
#
# A contestant is a function of a problem and settings that returns (run, count). run() returns
# (seconds, state), count() the evaluations of the last run or of a separate run.


class Rust:
    """The Rust program, which answers line by line."""

    def __init__(self, folder):
        build = ["cargo", "build", "--release", "--locked", "-p", "measure", "-p", "mopteq-train",
                 "--bin", "peers", "--message-format=json-render-diagnostics"]
        lines = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        artifacts = (json.loads(line) for line in lines.stdout.splitlines())
        program = next(a["executable"] for a in artifacts
                       if a.get("target", {}).get("name") == "peers" and a.get("executable"))
        self.folder = folder
        self.process = subprocess.Popen([program, folder], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def ask(self, problem, **settings):
        request = {"problem": problem.name, **settings}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the Rust program ended; its error is above")
        return json.loads(answer)

    def contestant(self, problem, settings):
        def run(keep=False):
            answer = self.ask(problem, output="state" if keep else None, **settings)
            state = np.fromfile(self.folder / "state", "<f8") if keep else None
            run.calls, run.rows = answer["calls"], answer["rows"]
            return answer["seconds"], state
        return run


def torch_contestant(problem, settings):
    settings = dict(settings)
    solver = get_solver(settings.pop("solver"))
    s, a, x, z = problem.torch()

    def run(keep=False):
        run.calls = 0

        def f(z):
            run.calls += 1
            return problem.f(torch, z, s, a, x)

        with torch.no_grad():
            clock = time.perf_counter()
            state, _, _ = solver(f, z, max_iter=problem.max_steps, tol=problem.relative,
                                 stop_mode="rel", **settings)
            seconds = time.perf_counter() - clock
        run.rows = run.calls * problem.batch
        return seconds, state.numpy() if keep else None
    return run


def jax_contestant(problem, settings):
    settings = dict(settings)
    solver = getattr(jaxopt, settings.pop("solver"))
    tolerance = problem.relative * problem.solution_norms
    # In f32, jaxopt's Anderson fails unless all of JAX is limited to it.
    precision = functools.partial(jax.enable_x64, not problem.single)
    with precision():
        s, a, x, z = problem.jax()
        tolerance = jnp.asarray(tolerance, dtype=z.dtype)

    def one(z, s, x, tol, a):
        def f(z):
            return problem.f(jnp, z, s, a, x)
        function = f if solver is not jaxopt.Broyden else lambda z: z - f(z)
        method = solver(function, tol=tol, maxiter=problem.max_steps, implicit_diff=False,
                        **settings)
        params, state = method.run(z)
        return params, state.num_fun_eval

    # Data are arguments, because XLA would precompute what depends only on constants.
    if problem.batch == 1:
        compiled = jax.jit(one)
        data = (z[0], s[0], x[0], tolerance[0], a)
    else:
        compiled = jax.jit(jax.vmap(one, in_axes=(0, 0, 0, 0, None)))
        data = (z, s, x, tolerance, a)

    def run(keep=False):
        with precision():
            clock = time.perf_counter()
            state, calls = jax.block_until_ready(compiled(*data))
            seconds = time.perf_counter() - clock
        # Under vmap, all samples continue until the slowest is finished.
        run.calls = int(np.max(calls))
        run.rows = run.calls * problem.batch
        return seconds, np.asarray(state) if keep else None
    return run


# ----------------------------------------------------------------------- race


def grid(**axes):
    return [dict(zip(axes, values)) for values in itertools.product(*axes.values())]


def line_up(rust, batch):
    """(library, method, default settings, other settings to choose the best from)."""
    m = 6
    deq, tdeq, jopt = rust.contestant, torch_contestant, jax_contestant
    # Samples can leave a batch, but a single one cannot.
    leave = [{}, {"freeze": True}] if batch > 1 else [{}]
    # Residuals may grow on the way, so no step is ever rejected.
    trusting = [{}, {"safeguard": 1e9}]
    return [
        ("burn-deq", "plain", deq, {"method": "plain"}, [{"method": "plain"} | f for f in leave]),
        ("TorchDEQ", "plain", tdeq, {"solver": "fixed_point_iter"}, []),
        ("jaxopt", "plain", jopt, {"solver": "FixedPointIteration"}, []),
        ("burn-deq", "Anderson", deq, {"method": "Anderson", "history": m},
         [{"method": "Anderson"} | g | f | t for f in leave for t in trusting
          for g in grid(history=[m, 12], kind=["I", "II"])]),
        ("TorchDEQ", "Anderson", tdeq, {"solver": "anderson", "m": m},
         [{"solver": "anderson"} | g for g in grid(m=[m, 12], lam=[1e-6, 1e-8, 1e-10, 1e-12])]),
        ("jaxopt", "Anderson", jopt, {"solver": "AndersonAcceleration", "history_size": m},
         [{"solver": "AndersonAcceleration", "history_size": h, "ridge": r}
          for h, r in [(m, 1e-8), (m, 1e-10), (12, 1e-10), (2, 1e-10)]]),
        ("burn-deq", "Broyden", deq, {"method": "Broyden"},
         [{"method": "Broyden", "history": h} | f | t
          for f in leave for t in trusting for h in (20, 60)]),
        ("TorchDEQ", "Broyden", tdeq, {"solver": "broyden"}, [{"solver": "broyden", "ls": True}]),
        ("jaxopt", "Broyden", jopt, {"solver": "Broyden"},
         [{"solver": "Broyden", "stepsize": 1.0, "history_size": 20}]),
    ]


class Entry:
    """A solver with settings on all problems of a group."""

    def __init__(self, label, make, group, settings):
        self.label, self.settings, self.group = label, settings, group
        self.runs = [make(problem, settings) for problem in group]
        self.seconds = []
        self.residuals, self.calls, self.rows, self.error = [], 0, 0, None
        start = time.perf_counter()
        self.attempt()
        self.endless = time.perf_counter() - start > 10

    def attempt(self):
        """The first run: its state and its counts."""
        try:
            for problem, run in zip(self.group, self.runs):
                _, state = run(keep=True)
                self.residuals.append(problem.residual(state))
                self.calls += run.calls
                self.rows += run.rows / problem.batch
        except torch._C._LinAlgError as error:
            self.error = str(error).split("\n")[0]
            self.residuals = [float("nan")]

    def solved(self):
        """A residual of at most ten times the tolerance counts as solved, because a library may
        return the iterate after, or before, the one that it judged."""
        if self.error:
            return 0
        return sum(r <= 10 * p.relative for r, p in zip(self.residuals, self.group))

    def time(self, record):
        # Three runs are enough for slow solvers. Very slow ones are compiled by now, too.
        slow = len(self.seconds) >= 3 and min(self.seconds) > 1
        slow |= self.endless and (not record or bool(self.seconds) and min(self.seconds) > 10)
        if not self.error and not slow:
            seconds = sum(run()[0] for run in self.runs)
            if record:
                self.seconds.append(seconds)

    def rank(self):
        return (-self.solved(), self.rows, self.calls)

    def row(self):
        worst = max(self.residuals, key=lambda r: r if r == r else float("inf"))
        solved = self.solved()
        text = "fails: singular matrix" if self.error else f"{worst:.1e}"
        if len(self.group) > 1 and not self.error:
            text += f" ({solved} of {len(self.group)} solved)"
        elif solved == 0 and not self.error:
            text += " (not solved)"
        rows = f"{self.rows:.0f}"
        milliseconds = f"{1e3 * statistics.median(self.seconds):.2f}" if self.seconds else ""
        library, method = self.label
        names = {"solver", "method"}
        shown = ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
                          for k, v in self.settings.items() if k not in names)
        return [library, method, shown, self.calls, rows, text, milliseconds]


def race(rust, group, rounds):
    entries = []
    for library, method, make, default, others in line_up(rust, group[0].batch):
        first = Entry((library, method), make, group, default)
        entries.append(first)
        others = [] if first.endless else others
        candidates = [Entry((library, method), make, group, s) for s in others]
        best = min([first, *candidates], key=Entry.rank)
        if best.rank() < first.rank():
            best.label = (library, method + ", best")
            entries.append(best)
    for turn in range(rounds + 2):
        # A different order each time, so that no solver always follows the same one.
        shift = turn % len(entries)
        for entry in entries[shift:] + entries[:shift]:
            # Threads of the previous solver go to sleep.
            time.sleep(0.005)
            entry.time(record=turn >= 2)
    return [entry.row() for entry in entries]


# ------------------------------------------------------------------ gradients


def gradient_table(rust, folder, rounds):
    """Gradients of sum(c * z*) with respect to the matrix and the input."""
    rng = np.random.default_rng(3)
    a = rng.standard_normal((64, 64))
    a *= 0.9 / np.linalg.norm(a, 2)
    problem = Problem("gradient", "tanh", 1e-12, a=a, x=rng.standard_normal((16, 64)),
                      max_steps=200)
    problem.write(folder)
    steps = 400
    s, a, x, z = problem.torch()
    c = torch.tensor(problem.data["c"])

    def torch_gradient(solve):
        def run():
            leaves = [v.clone().requires_grad_() for v in (a, x)]
            clock = time.perf_counter()
            (solve(*leaves) * c).sum().backward()
            return time.perf_counter() - clock, [v.grad.numpy() for v in leaves]
        return run

    def unrolled(a, x):
        state = z
        for _ in range(steps):
            state = problem.f(torch, state, s, a, x)
        return state

    def torch_deq(**settings):
        settings = {"f_solver": "anderson", "b_solver": "anderson", "f_max_iter": 200,
                    "b_max_iter": 200, "f_tol": 1e-12, "b_tol": 1e-12, "f_stop_mode": "rel",
                    "b_stop_mode": "rel"} | settings
        deq = torchdeq.get_deq(settings)
        deq.train()
        return torch_gradient(lambda a, x: deq(lambda z: problem.f(torch, z, s, a, x), z)[0][-1])

    js, ja, jx, jz = problem.jax()
    jc = jnp.asarray(problem.data["c"])

    def jax_gradient(**settings):
        def f(z, a, x):
            return problem.f(jnp, z, js, a, x)
        tolerance = float(1e-12 * problem.solution_norms.min())
        method = jaxopt.AndersonAcceleration(f, history_size=6, tol=tolerance, maxiter=200,
                                             **settings)
        loss = lambda a, x, z: jnp.sum(method.run(z, a, x).params * jc)
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))

        def run():
            clock = time.perf_counter()
            result = jax.block_until_ready(compiled(ja, jx, jz))
            return time.perf_counter() - clock, [np.asarray(v) for v in result]
        return run

    def rust_gradient(**settings):
        def run():
            answer = rust.ask(problem, output="gradient", backward=True, **settings)
            values = np.fromfile(folder / "gradient", "<f8")
            # The state comes first.
            values = values[problem.batch * problem.width:]
            a, x = np.split(values, [problem.width**2])
            shapes = [(problem.width,) * 2, (problem.batch, problem.width)]
            return answer["seconds"], [v.reshape(s) for v, s in zip((a, x), shapes)]
        return run

    gmres = lambda matvec, b, **kw: jax.scipy.sparse.linalg.gmres(matvec, b, tol=1e-12, **kw)[0]
    contestants = [
        ("PyTorch", f"autodiff of {steps} steps (the reference)", torch_gradient(unrolled)),
        ("burn-deq", f"autodiff of {steps} steps", rust_gradient(method="plain", unrolled=steps)),
        ("burn-deq", "implicit, the default (Anderson in both directions)",
         rust_gradient(method="Anderson")),
        ("burn-deq", "implicit, Broyden forward", rust_gradient(method="Broyden")),
        ("TorchDEQ", "the default (phantom, one step)", torch_deq()),
        ("TorchDEQ", "implicit (Anderson in both directions)", torch_deq(ift=True)),
        ("TorchDEQ", "implicit (plain iteration in both directions)",
         torch_deq(ift=True, f_solver="fixed_point_iter", b_solver="fixed_point_iter")),
        ("TorchDEQ", "implicit (Broyden in both directions)",
         torch_deq(ift=True, f_solver="broyden", b_solver="broyden")),
        ("jaxopt", "implicit, the default (Anderson; conjugate gradients on the normal equations)",
         jax_gradient()),
        ("jaxopt", "implicit (Anderson, ridge 1e-10; GMRES to 1e-12)",
         jax_gradient(ridge=1e-10, implicit_diff_solve=gmres)),
    ]
    results = [run()[1] for _, _, run in contestants]
    times = [[] for _ in contestants]
    for turn in range(rounds + 2):
        for (_, _, run), seconds in zip(contestants, times):
            time.sleep(0.005)
            value = run()[0]
            if turn >= 2:
                seconds.append(value)
    error = lambda g, r: f"{np.linalg.norm(g - r) / np.linalg.norm(r):.1e}"
    rows = []
    for (library, what, _), result, seconds in zip(contestants, results, times):
        errors = [error(g, r) for g, r in zip(result, results[0])]
        rows.append([library, what, *errors, f"{1e3 * statistics.median(seconds):.2f}"])
    return rows


# --------------------------------------------------------------------- output


def markdown(heads, rows, numbers):
    print("| " + " | ".join(heads) + " |")
    print("|" + "|".join("---:" if i in numbers else "---" for i in range(len(heads))) + "|")
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print()


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text() if platform.system() == "Linux" else ""
    fields = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in fields.items()}
    name = fields.get("model name", platform.processor())
    wide = "AVX-512" if "avx512f" in fields.get("flags", "").split() else "no AVX-512"
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} processors, {name}, {wide}; load {load:.1f} at the start"


def main():
    options = arguments()
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True).stdout.split()[1]
    version = lambda package: next(p for p in PINNED if p.startswith(package)).replace("==", " ")
    print(f"Machine: {machine()}. Rust {rustc}, Burn's Flex backend; "
          + ", ".join(version(p) for p in ("torchdeq", "torch", "jaxopt", "jax="))
          + f"; Python {platform.python_version()}. Medians of {options.rounds} runs.\n")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        rust = Rust(folder)
        for title, group in problems():
            if options.only and not any(part in title for part in options.only):
                continue
            for problem in group:
                problem.write(folder)
            print(f"### {title[0].upper()}{title[1:]}\n")
            heads = ["library", "method", "settings", "evaluations", "per sample", "residual", "ms"]
            markdown(heads, race(rust, group, options.rounds), {3, 4, 5, 6})
            sys.stdout.flush()
        if not options.only or "gradients" in options.only:
            print("### Gradients of a tanh layer, 16 x 64, f64, tolerance 1e-12\n")
            heads = ["library", "gradient", "error in W", "error in x", "forward + backward, ms"]
            markdown(heads, gradient_table(rust, folder, options.rounds), {2, 3, 4})
        rust.process.stdin.close()


if __name__ == "__main__":
    main()
