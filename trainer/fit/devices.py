"""Training on several devices: each takes an equal part of every batch."""

from __future__ import annotations

import keras

from trainer.run import RunError


def use_all_devices(batch: int) -> None:
    """Divide batches among all devices that JAX has from now on; networks are built after it.

    `RunError` is raised if Keras does not run on JAX, or a batch cannot be divided evenly.
    """
    backend = keras.backend.backend()
    if backend != "jax":
        raise RunError(
            f"--devices all needs Keras on JAX, not on {backend}: pip install "
            "'genre-stream[jax]', and set KERAS_BACKEND=jax"
        )
    devices = keras.distribution.list_devices()
    if batch % len(devices):
        raise RunError(
            f"--batch {batch} cannot be divided among {len(devices)} devices: give a multiple of "
            f"{len(devices)}"
        )
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))


def device_count() -> int:
    """Return among how many devices a batch is divided."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else int(distribution.num_model_replicas)
