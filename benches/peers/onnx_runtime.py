#!/usr/bin/env python3
"""Exported ONNX graphs in ONNX Runtime against `mopteq predict`: checks, agreement and speed.

    python3 benches/peers/onnx_runtime.py

The script creates a virtual environment in a temporary folder, installs the pinned peers there,
builds the program, trains each network for a moment on the embedded digits, and exports it. It needs
Python 3.11 or newer with `venv`. `--venv FOLDER` keeps the environment for the next run, `--no-venv`
uses the packages of the current interpreter, `--program FILE` names a program that was built
elsewhere, `--only NAME,NAME` selects networks, and `--quick` skips the timing.

What is checked, for each network:

- onnx's checker with full_check accepts the file in the oldest and the current version of the
  operators.
- "steps": a graph of 6 plain steps against `mopteq predict --steps 6 --plain-steps`, in all
  probabilities of 200 test pictures, to 1e-4.
- "loop": a graph that ends by its residual against `mopteq predict` with its own solver (Anderson
  acceleration), both to a relative residual of 1e-5, to 1e-4. Pictures that the loop did not
  solve within its limit are counted and left out: plain iteration needs a contraction, and an MDEQ
  need not be one.
- The batch size is free: batches of 200, 7 and 1 pictures give the same results.
- The metadata hold the class names.

How the speed is measured: 1,000 test pictures, all at the run's tolerance (1e-3), batches of 50. For
`predict`, the difference between the times of a call with 1,000 and with 1 pictures, divided by 999,
so that starting the program does not count; it includes decoding the PNG files. For ONNX Runtime,
session.run on all batches. "fixed" is a graph of as many steps as the slowest of the pictures took in
the loop. All take turns, five times; the table shows medians. Both sides use all cores.
"""

import argparse
import gzip
import json
import os
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib

PINNED = ["onnx==1.23.2", "onnxruntime==1.32.0", "numpy==2.4.6"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS, TIGHT, ALLOWED = 6, 1e-5, 1e-4
COUNT, TIMED, BATCH = 200, 1000, 50
PAPER = ["stem.stride=1", "stem.padding=1", "core.channels=32", "core.hidden=32", "head.grid=4"]

# Name, options, settings of the model.
NETWORKS = [
    ("fast", ["--preset", "fast"], []),
    ("fast by convolution", ["--preset", "fast"], ['stages.all.layer.form="convolution"']),
    ("deep", ["--preset", "deep", "--limit", 200], []),
    ("digits", ["--preset", "paper"], []),
    ("paper (small)", [], PAPER),
    ("family S", ["--family", "s"], []),
    ("S, cross blocks, smooth", ["--family", "s"], ["core.cross_branch=true", "core.smoothness=0.05"]),
    ("P, cross blocks, smooth", ["--preset", "paper"], ["core.cross_branch=true", "core.smoothness=0.3", 'core.pairs="neighbours"']),
    ("interval", ["--preset", "paper"], ["core.constraint.interval={low=0.0, high=0.5}"]),
    ("average", ["--preset", "paper"], ['head.fusion="average"', "head.grid=3"]),
    ("opteq", ["--model", "opteq"], []),
    ("mdeq", ["--model", "mdeq"], []),
    ("residual", ["--model", "residual"], []),
]


def environment(folder):
    """The interpreter of a virtual environment with the peers."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
    return python


def digits():
    """The pictures of the embedded test part as an array of bytes."""
    import numpy

    with gzip.open(ROOT / "datasets/mnist-5k/test-images-idx3-ubyte.gz") as file:
        content = file.read()
    _, count, height, width = struct.unpack(">4I", content[:16])
    return numpy.frombuffer(content, "uint8", offset=16).reshape(count, height, width)


def write_png(path, picture):
    def part(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = picture.shape
    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    head = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    )


class Program:
    def __init__(self, file, folder):
        self.file, self.folder = file, folder

    def __call__(self, *arguments):
        command = [self.file, *map(str, arguments)]
        result = subprocess.run(command, cwd=self.folder, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}\n{result.stderr}")
        return result.stdout

    def predict(self, run, pictures, *arguments):
        """Probabilities in the order of the classes, one row for each picture."""
        import numpy

        text = self("predict", "--json", "--top", 1000, "--device", "cpu", "--run", run, pictures, *arguments)
        rows = []
        for picture in map(json.loads, text.splitlines()):
            ranked = {entry["class"]: entry["probability"] for entry in picture["classes"]}
            rows.append([ranked[name] for name in sorted(ranked, key=int)])
        return numpy.array(rows)

    def with_solver(self, run, name, **rule):
        """A copy of a run with the same weights and a changed stopping rule."""
        weights = self.folder / f"{name}.safetensors"
        if weights.exists():
            weights.unlink()
            weights.with_suffix(".json").unlink()
        self("export", "--device", "cpu", "--run", run, weights)
        settings = weights.with_suffix(".json")
        config = json.loads(settings.read_text())
        for equilibrium in equilibria(config["model"]):
            equilibrium["forward"]["termination"].update(rule)
        settings.write_text(json.dumps(config))
        out = self.folder / f"{name}-run"
        self("import", "--device", "cpu", weights, "--out", out)
        return out


def equilibria(model):
    """The solvers of a network, or of a stack's stages."""
    stages = [stage["layer"] for stage in model.get("stages", [])]
    return [part["equilibrium"] for part in [model, *stages] if "equilibrium" in part]


def session(file):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def answers(file, pictures, batch):
    """All outputs by name."""
    import numpy

    model = session(file)
    names = [output.name for output in model.get_outputs()]
    parts = [
        model.run(names, {"pictures": pictures[start : start + batch]})
        for start in range(0, len(pictures), batch)
    ]
    return {name: numpy.concatenate([part[k] for part in parts]) for k, name in enumerate(names)}


def check_file(file, classes):
    import onnx

    onnx.checker.check_model(str(file), full_check=True)
    entries = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(entries["classes"]) == classes, entries["classes"]


def furthest(a, b):
    return float(abs(a - b).max()) if len(a) else 0.0


def compare(program, name, options, settings, folder, pictures):
    import numpy

    run = folder / "run"
    arguments = ["--device", "cpu", "--epochs", 1, "--test-limit", 20, "--seed", 3, *options]
    if "--limit" not in options:
        arguments += ["--limit", 1000]
    arguments += [part for setting in settings for part in ("--set", f"model.{setting}")]
    program("train", *arguments, "--out", run)
    config = json.loads((run / "config.json").read_text())
    implicit = bool(equilibria(config["model"]))
    few = folder / "few"
    inputs = pictures[:COUNT, None].astype("float32") / 255

    # Two versions of the operators; the file of the current one is used below.
    fixed = folder / "fixed.onnx"
    for opset in (21, 28):
        program("export", "--device", "cpu", "--run", run, "--onnx", fixed, "--steps", STEPS, "--opset", opset)
        check_file(fixed, config["classes"])
    expected = program.predict(run, few, "--steps", STEPS, "--plain-steps")
    found = answers(fixed, inputs, COUNT)
    row = {"network": name, "steps": furthest(found["probabilities"], expected)}
    for batch in (7, 1):
        again = answers(fixed, inputs, batch)
        assert furthest(again["logits"], found["logits"]) < 1e-4, "the result depends on the batch"

    loop = folder / "loop.onnx"
    if implicit:
        tight = program.with_solver(run, "tight", relative=TIGHT, max_steps=50)
        program("export", "--device", "cpu", "--run", tight, "--onnx", loop)
        check_file(loop, config["classes"])
        expected = program.predict(tight, few)
        found = answers(loop, inputs, COUNT)
        solved = found["residual"] <= TIGHT
        row["loop"] = furthest(found["probabilities"][solved], expected[solved])
        row["solved"] = int(solved.sum())
        again = answers(loop, inputs, 7)
        assert (again["steps"] == found["steps"]).mean() > 0.98, "the steps depend on the batch"
    return row, run, config


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def speed(program, run, folder, pictures, rounds=5):
    """Milliseconds per picture of each contestant, and the steps of the loop."""
    inputs = pictures[:TIMED, None].astype("float32") / 255
    batches = [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]
    loop, fixed = folder / "timed-loop.onnx", folder / "timed-fixed.onnx"
    program("export", "--device", "cpu", "--run", run, "--onnx", loop)
    steps = answers(loop, inputs, BATCH).get("steps")
    contestants = {}
    if steps is not None:
        program("export", "--device", "cpu", "--run", run, "--onnx", fixed, "--steps", int(steps.max()))
        contestants["fixed"] = session(fixed)
    contestants["loop" if steps is not None else "graph"] = session(loop)
    many, one = folder / "many", folder / "one"
    times = {name: [] for name in ["predict", *contestants]}
    for _ in range(rounds + 1):
        whole = seconds(lambda: program("predict", "--device", "cpu", "--run", run, many))
        start = seconds(lambda: program("predict", "--device", "cpu", "--run", run, one))
        times["predict"].append(1000 * (whole - start) / (TIMED - 1))
        for name, model in contestants.items():
            took = seconds(lambda: [model.run(["probabilities"], {"pictures": batch}) for batch in batches])
            times[name].append(1000 * took / TIMED)
    # The first round warms up.
    row = {name: statistics.median(values[1:]) for name, values in times.items()}
    if steps is not None:
        row |= {"mean": float(steps.mean()), "max": int(steps.max())}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", type=pathlib.Path)
    parser.add_argument("--no-venv", action="store_true")
    parser.add_argument("--program", type=pathlib.Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        if not options.no_venv:
            python = environment(options.venv or scratch / "venv")
            sys.exit(subprocess.run([python, __file__, "--no-venv", *sys.argv[1:]]).returncode)
        file = options.program
        if file is None:
            subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
            file = ROOT / "target/release/mopteq"
        pictures = digits()
        chosen = [n for n in NETWORKS if not options.only or n[0] in options.only.split(",")]
        rows, timings = [], []
        for k, (name, arguments, settings) in enumerate(chosen):
            folder = scratch / str(k)
            for part, count in (("few", COUNT), ("many", TIMED), ("one", 1)):
                (folder / part).mkdir(parents=True)
                for number in range(count):
                    write_png(folder / part / f"{number:04}.png", pictures[number])
            program = Program(file.resolve(), folder)
            row, run, _ = compare(program, name, arguments, settings, folder, pictures)
            print(json.dumps(row), file=sys.stderr)
            rows.append(row)
            if not options.quick:
                timings.append({"network": name, **speed(program, run, folder, pictures)})
                print(json.dumps(timings[-1]), file=sys.stderr)
        report(rows, timings)


def report(rows, timings):
    import onnx
    import onnxruntime

    print(f"onnx {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}, {os.cpu_count()} cores\n")
    print(f"| network | largest difference, {STEPS} steps | loop | solved by the loop |\n|---|---|---|---|")
    for row in rows:
        loop = f"{row['loop']:.1e}" if row.get("solved") else "-"
        loop += f" | {row['solved']} of {COUNT}" if "solved" in row else " | -"
        print(f"| {row['network']} | {row['steps']:.1e} | {loop} |")
    if timings:
        print("\n| network | predict | loop | fixed | steps of the loop: mean, most |\n|---|---|---|---|---|")
        for row in timings:
            cells = [f"{row[k]:.2f} ms" if k in row else "-" for k in ("predict", "loop", "fixed")]
            if "graph" in row:
                cells[2] = f"{row['graph']:.2f} ms"
            steps = f"{row['mean']:.1f}, {row['max']}" if "mean" in row else "-"
            print(f"| {row['network']} | {' | '.join(cells)} | {steps} |")
    worst = max(max(row["steps"], row.get("loop", 0.0)) for row in rows)
    if worst > ALLOWED:
        sys.exit(f"a probability differs by {worst:.1e}, more than {ALLOWED:.0e}")


if __name__ == "__main__":
    main()
