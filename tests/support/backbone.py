"""Trainings with a small network in place of InceptionV3, which take seconds.

As a program, it is genre-train with that network: `python -m support.backbone fit …`.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from trainer.cli import main


@contextlib.contextmanager
def small_backbone() -> Iterator[None]:
    """Build small networks instead of InceptionV3."""
    import keras

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "InceptionV3", _small_backbone)
        yield


def _small_backbone(name: str, **options: Any) -> Any:
    """Return convolutions, with a batch norm as in InceptionV3 and without."""
    import keras

    images = keras.Input(options["input_shape"])
    features = keras.layers.Conv2D(8, 5, strides=4, use_bias=False)(images)
    features = keras.layers.ReLU()(keras.layers.BatchNormalization()(features))
    return keras.Model(images, keras.layers.Conv2D(16, 5, strides=4)(features), name=name)


if __name__ == "__main__":
    with small_backbone():
        sys.exit(main(sys.argv[1:]))
