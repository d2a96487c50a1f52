"""How many windows a second a training takes in, beside plain Keras.

``PYTHONPATH=.:tests python -m benchmarks.training`` trains the same network twice in turn, each in
a process of its own: with ``genre-train fit``, which cuts and augments windows of pictures that it
reads from files, and with ``Model.fit`` on arrays in memory. Both have the same input, batch and
frozen batch norms, those of the embedded model. The first epoch, which compiles the network, does
not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.report import Report
from support.pictures import write_pictures

from streamer.core.spectrogram import SpectrogramSpec
from trainer.fit_settings import FitSettings

GENRES = ("rows", "steps")
STEPS = 8
"""Of an epoch."""
TRACK_SECONDS = 30.0


class Clock:
    """Seconds, and seconds of processors, that each epoch takes."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        passed, used = self._began
        self.epochs.append((time.perf_counter() - passed, time.process_time() - used))


def train_with_keras(settings: FitSettings, clock: Clock) -> None:
    """Train with `Model.fit`."""
    import keras

    from trainer.network import BACKBONE, build_image_network, with_preprocessing

    spec = SpectrogramSpec()
    frames = spec.frames_in(settings.window_seconds)
    image_network = build_image_network(GENRES, weights=settings.weights, dropout=settings.dropout)
    for layer in image_network.get_layer(BACKBONE).layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    network = with_preprocessing(image_network, spec, frames, settings.input_scale)
    random = np.random.default_rng(0)
    windows = STEPS * settings.batch
    inputs = -spec.top_db * random.random((windows, spec.n_mels, frames), np.float32)
    targets = np.eye(len(GENRES), dtype=np.float32)[random.integers(len(GENRES), size=windows)]
    network.compile(
        keras.optimizers.AdamW(settings.learning_rate),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    timing = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: clock.start(),
        on_epoch_end=lambda epoch, logs: clock.stop(),
    )
    network.fit(
        inputs,
        targets,
        batch_size=settings.batch,
        epochs=settings.epochs,
        callbacks=[timing],
        verbose=0,
    )


def train_with_ours(settings: FitSettings, clock: Clock) -> None:
    """Train as `genre-train fit` does."""
    from trainer.fit import loop

    class Timed(loop._TrainingLoop):
        def _train(self, *arguments: Any) -> dict[str, float]:
            clock.start()
            trained = super()._train(*arguments)
            clock.stop()
            return trained

    loop._TrainingLoop = Timed
    loop.fit(settings)


TRAININGS = {"genre-train fit": train_with_ours, "Model.fit": train_with_keras}


def train(name: str, batch: int, input_scale: float, epochs: int) -> dict[str, float]:
    """Train in this process; return the medians over all epochs but the first."""
    spec, clock = SpectrogramSpec(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        tracks = STEPS * batch * 5 // 16  # of each of two genres; four of five are trained on
        frames = spec.frames_in(TRACK_SECONDS)
        settings = FitSettings(
            data=write_pictures(Path(folder) / "pictures", GENRES, tracks, frames, spec),
            out=Path(folder) / "run",
            weights="gtzan",
            split=("stratified",),
            tagger="none",
            head_epochs=0,
            epochs=epochs,
            batch=batch,
            input_scale=input_scale,
        )
        TRAININGS[name](settings, clock)
    windows = STEPS * batch
    passed, used = (statistics.median(each) for each in zip(*clock.epochs[1:], strict=True))
    return {"windows a second": windows / passed, "core ms a window": 1000 * used / windows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.training")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--input-scale", type=float, default=1.5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    parser.add_argument("--train", choices=TRAININGS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.train:
        print(json.dumps(train(given.train, given.batch, given.input_scale, given.epochs)))
        return
    report = Report("training", given.json)
    for number in range(given.rounds):
        rows = {}
        for name in TRAININGS if number % 2 else reversed(TRAININGS):
            command = [sys.executable, "-m", "benchmarks.training", "--train", name]
            for option in ("batch", "input_scale", "epochs"):
                command += [f"--{option.replace('_', '-')}", str(getattr(given, option))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
        for name, row in rows.items():
            ratio = row["windows a second"] / rows["Model.fit"]["windows a second"]
            report.add({"round": number + 1, "trained by": name, **row, "to Model.fit": ratio})
    report.write()


if __name__ == "__main__":
    main()
