"""Sessions of onnxruntime, which compute with 8-bit integers or in float32."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import onnxruntime

from streamer.core.arithmetic import Arithmetic

MIN_GAIN = 1.2
"""How many times as fast as float32 integers must be to be chosen. Processors have instructions for
them and gain far more, or have none and gain less, so that chance does not choose."""

ROUNDS = 2
"""Measured predictions of each, after that of the golden input; the faster counts."""

FLOAT_REWRITES = {"ReluQuantRewrite", "ClipQuantRewrite", "CommonSubexpressionElimination"}
"""Optimisations of onnxruntime that are off where a graph with quantised activations is computed in
float32. The first two remove what the quantisation behind it does as well, which is wrong when
that is removed next; the third joins quantisations, and those with several readers stay."""


def session_options(threads: int, *, integers: bool = False) -> onnxruntime.SessionOptions:
    """Return the onnxruntime options for model files.

    Threads do not spin between predictions, so an idle daemon uses no processor time. Weights
    stored as int8 are converted to float32 once, on loading, and quantised activations left as they
    are, unless `integers` are computed with.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.disable_quant_qdq", "0" if integers else "1")
    options.add_session_config_entry("session.enable_quant_qdq_cleanup", "0" if integers else "1")
    return options


def open_session(
    model: Path | str | bytes, threads: int, arithmetic: Arithmetic = "float32"
) -> onnxruntime.InferenceSession:
    """Open a graph, from its file or content; raise what onnxruntime raises."""
    integers = arithmetic == "int8"
    return onnxruntime.InferenceSession(
        str(model) if isinstance(model, Path) else model,
        session_options(threads, integers=integers),
        providers=["CPUExecutionProvider"],
        disabled_optimizers=set() if integers else FLOAT_REWRITES,
    )


def measure(predictions: Mapping[Arithmetic, Callable[[], object]]) -> dict[Arithmetic, float]:
    """Return the processor time that each prediction takes, in milliseconds.

    They run alternately, and what other programs do in the meantime does not count.
    """
    times: dict[Arithmetic, list[float]] = {arithmetic: [] for arithmetic in predictions}
    for _ in range(ROUNDS):
        for arithmetic, predict in predictions.items():
            start = time.process_time()
            predict()
            times[arithmetic].append(time.process_time() - start)
    return {arithmetic: 1000 * min(taken) for arithmetic, taken in times.items()}
