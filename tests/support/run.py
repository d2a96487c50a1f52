"""Training runs for tests: real Keras files in the format of genre-train, made in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from support.waiting import LONGEST_WAIT_SECONDS

LABELS = [
    "blues",
    "classical",
    "country",
    "disco",
    "hiphop",
    "jazz",
    "metal",
    "pop",
    "reggae",
    "rock",
]

LONGEST_TRAINING_SECONDS = 60 * LONGEST_WAIT_SECONDS
"""Time limit of a training or evaluation in a test, which only ends one that hangs."""

RUN: dict[str, Any] = {
    "labels": LABELS,
    "not_music": None,
    "spec": {
        "sample_rate": 22050,
        "n_fft": 2048,
        "hop_length": 1711,
        "n_mels": 128,
        "fmin": 0.0,
        "fmax": 11025.0,
        "top_db": 80.0,
    },
    "window_frames": 65,
    "min_frames": 39,
    "input_scale": 2,
    "temperature": 1.5,
    "decision": {"smoothing": "ema"},
    "seed": 7,
    "settings": {"data": "/home/somebody/noise", "out": "runs/noise"},
    "split": {
        "name": "lists",
        "protocol": "by hand",
        "notes": [],
        "missing": [],
        "train": [],
        "valid": [],
        "test": [],
    },
    "background": {"train": [], "valid": []},
    "command": "genre-train fit",
    "train_seconds": 60.0,
    "metrics": {"valid": {"accuracy": 0.1}},
}


def write_run(folder: Path, network: Any, **changes: Any) -> Path:
    """Write a run folder with a Keras network from images to logits."""
    write_run_file(folder, **changes)
    network.save(folder / "model.keras")
    return folder


def write_run_file(folder: Path, **changes: Any) -> Path:
    """Write the `run.json` of a run folder: `RUN` with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**RUN, **changes}))
    return folder


def tiny_network(classes: int = len(LABELS)) -> Any:
    """Return a random network with the same types of layers as InceptionV3 and 6000 weights."""
    import keras

    keras.utils.set_random_seed(3)
    images = keras.Input((None, None, 3))
    features = images
    for filters in (8, 16, 32):
        features = keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)(features)
        features = keras.layers.BatchNormalization(scale=False)(features)
        features = keras.layers.Activation("relu")(features)
    pooled = keras.layers.AveragePooling2D(3, strides=1, padding="same")(features)
    features = keras.layers.Concatenate()([features, pooled])
    features = keras.layers.GlobalAveragePooling2D()(features)
    features = keras.layers.Dropout(0.3)(features)
    network = keras.Model(images, keras.layers.Dense(classes, name="logits")(features))
    _randomise(network)
    return network


def inception_network(weights: Path, windows: Any, genres: list[str]) -> Any:
    """Return InceptionV3 with the given weights and a head fitted to windows by least squares.

    `windows` has shape (n, n_mels, frames), dB relative to the loudest cell, and `genres` n names.
    """
    import keras

    backbone = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(None, None, 3), pooling="avg"
    )
    backbone.load_weights(weights)
    levels = np.repeat((windows / 40 + 1)[..., np.newaxis], 3, axis=-1)
    height, width = (RUN["input_scale"] * size for size in windows.shape[1:])
    images = keras.ops.image.resize(levels, (height, width))
    features = backbone.predict(images, batch_size=10, verbose=0)
    wanted = np.equal.outer(genres, LABELS).astype(np.float32) - 1 / len(LABELS)
    centred = features - features.mean(axis=0)
    similarity = centred @ centred.T
    ridge = 0.01 * np.trace(similarity) / len(centred) * np.eye(len(centred))
    kernel = 10 * centred.T @ np.linalg.solve(similarity + ridge, wanted)
    images = keras.Input((None, None, 3))
    head = keras.layers.Dense(len(LABELS), name="logits")
    network = keras.Model(images, head(backbone(images)))
    head.set_weights([kernel, -features.mean(axis=0) @ kernel])
    return network


def _randomise(network: Any) -> None:
    """Set batch norms and the head so that predictions differ clearly between inputs."""
    draw = np.random.default_rng(5)
    for layer in network.layers:
        if "batch_normalization" in layer.name:
            beta, mean, variance = layer.get_weights()
            layer.set_weights(
                [
                    draw.normal(0, 0.3, beta.shape),
                    draw.normal(0, 0.3, mean.shape),
                    draw.uniform(0.05, 0.5, variance.shape),
                ]
            )
        if layer.name == "logits":
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel * 4, draw.normal(0, 0.3, bias.shape)])
