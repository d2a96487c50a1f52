"""How many windows a second a model classifies, by arithmetic, threads and batch.

``PYTHONPATH=.:tests python -m benchmarks.windows`` measures the embedded model, ``--model FILE``
another one. All variants take turns, so that other programs slow all of them. Beside the time that
passed stands the time of processors, which other programs hardly change, and the share of the rate
that a product of two matrices reaches on one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import numpy as np
from benchmarks.report import Report

from streamer.core.arithmetic import Choice
from streamer.core.model import DEFAULT_MODEL, Classifier, golden_audio, golden_spectrogram

WINDOW_GFLOP = 3.35
"""Operations of InceptionV3 for one window of 128 bands and 65 columns."""
MATRIX_RATE = """
import time, numpy
matrix = numpy.ones((1024, 1024), numpy.float32)
for _ in range(2):  # the first product sets things up
    start = time.process_time()
    matrix @ matrix
print(2 * 1024**3 / (time.process_time() - start) / 1e9)
"""


def matrix_rate() -> float:
    """Return the GFLOP/s of a matrix product on one core, by processor time."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MATRIX_RATE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.windows")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args()
    available = Classifier.load(given.model).contract.arithmetics
    variants = []
    for arithmetic in get_args(Choice):
        if arithmetic in available:
            for threads in given.threads:
                model = Classifier.load(given.model, threads=threads, arithmetic=arithmetic)
                variants += [(arithmetic, threads, batch, model) for batch in given.batch]
    times: list[list[tuple[float, float]]] = [[] for _ in variants]
    matrices = []
    for number in range(given.rounds + 1):  # the first round sets things up
        matrices.append(matrix_rate())
        for (_, _, batch, model), own in zip(variants, times, strict=True):
            contract = model.contract
            window = golden_spectrogram(contract.spectrogram, contract.window_frames)
            audio = contract.audio and golden_audio(contract.audio, contract.audio.samples)
            windows = np.repeat(window, batch, axis=0)
            sounds = None if audio is None else np.repeat(audio, batch, axis=0)
            began, used = time.perf_counter(), time.process_time()
            model.predict(windows, sounds)
            if number:
                own.append((time.perf_counter() - began, time.process_time() - used))
    report = Report("windows", given.json)
    rate = statistics.median(matrices)
    for (arithmetic, threads, batch, _), own in zip(variants, times, strict=True):
        passed, used = (statistics.median(each) / batch for each in zip(*own, strict=True))
        report.add(
            {
                "arithmetic": arithmetic,
                "threads": threads,
                "batch": batch,
                "ms a window": 1000 * passed,
                "core ms a window": 1000 * used,
                "windows a second": 1 / passed,
                "share of matrix rate": WINDOW_GFLOP / used / rate,
            }
        )
    report.write()


if __name__ == "__main__":
    main()
