#!/usr/bin/env python3
"""TensorBoard's own reader on the log of a run that was interrupted and resumed.

    python3 benches/peers/tensorboard_reader.py

The script creates a virtual environment in a temporary folder, installs the pinned TensorBoard
there, builds the program, and trains for three epochs with `--log tensorboard`. It kills the
training in the second epoch (SIGKILL: no checkpoint at that point), resumes it, interrupts it in
the third (SIGTERM: a checkpoint within the epoch), and resumes it again. Then it checks that

- EventAccumulator, which TensorBoard itself uses, reads each batch of the run exactly once,
- the raw loader finds no step twice in the files either,
- the values match a run that was never interrupted, and those of the epochs match metrics.json.

`--venv FOLDER` keeps the environment, `--no-venv` uses the packages of the current interpreter,
`--program FILE` names a program that was built elsewhere.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

PINNED = ["tensorboard==2.21.0", "setuptools<81"]
ROOT = pathlib.Path(__file__).resolve().parents[2]
EPOCHS, PICTURES, BATCH = 3, 1000, 20
OPTIONS = ["--device", "cpu", "--epochs", EPOCHS, "--limit", PICTURES, "--test-limit", 50, "--batch-size", BATCH]


def environment(folder):
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PINNED], check=True)
    return python


def batches(run):
    """Steps that are in the files now, without TensorBoard's rules about restarts."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    steps = []
    for file in sorted((run / "tensorboard").glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            steps += [event.step for value in event.summary.value if value.tag == "loss/batch"]
    return steps


def interrupt(command, run, after, how):
    """Starts a training, and stops it once `after` batches are logged."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if (run / "tensorboard").exists() and len(set(batches(run))) >= after:
            process.send_signal(how)
            break
        time.sleep(0.02)
    else:
        sys.exit("the training ended before it could be interrupted")
    return process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--venv", type=pathlib.Path)
    parser.add_argument("--no-venv", action="store_true")
    parser.add_argument("--program", type=pathlib.Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        if not options.no_venv:
            python = environment(options.venv or scratch / "venv")
            sys.exit(subprocess.run([python, __file__, "--no-venv", *sys.argv[1:]]).returncode)
        program = options.program
        if program is None:
            subprocess.run(["cargo", "build", "--release"], cwd=ROOT, check=True)
            program = ROOT / "target/release/mopteq"
        check(program.resolve(), scratch)


def check(program, scratch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    whole, run = scratch / "whole", scratch / "run"
    start = [str(part) for part in [program, "train", *OPTIONS, "--log", "tensorboard", "--out"]]
    subprocess.run([*start, whole], check=True, stdout=subprocess.DEVNULL)
    each = len(set(batches(whole))) // EPOCHS

    resume = [program, "train", "--device", "cpu", "--resume", run]
    killed = interrupt([*start, run], run, each + each // 2, signal.SIGKILL)
    before = len(batches(run))
    # The resumed run continues its log without `--log`.
    stopped = interrupt(resume, run, 2 * each + each // 2, signal.SIGTERM)
    assert (killed, stopped) == (-signal.SIGKILL, 130), (killed, stopped)
    subprocess.run(resume, check=True, stdout=subprocess.DEVNULL)

    found = []
    for folder in (whole, run):
        reader = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
        reader.Reload()
        scalars = {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
        found.append(scalars)
        steps = [step for step, _ in scalars["loss/batch"]]
        assert steps == list(range(1, EPOCHS * each + 1)), steps
        assert batches(folder) == steps, "a step is in the files twice"
        epochs = json.loads((folder / "metrics.json").read_text())["epochs"]
        for key in epochs[0]["values"]:
            part, metric = key.split("_", 1)
            logged = scalars[f"{metric}/{part}"]
            assert [step for step, _ in logged] == [each * (k + 1) for k in range(EPOCHS)], key
            for row, (_, value) in zip(epochs, logged):
                assert abs(value - row["values"][key]) <= 1e-6 * max(1, abs(value)), key
    once, resumed = found
    for tag in once:
        assert tag.startswith("seconds") or once[tag] == resumed[tag], f"{tag} differs after the resumes"
    print(f"{len(once)} curves, {EPOCHS * each} batches, {before} logged before the kill: as of a whole run")


if __name__ == "__main__":
    main()
