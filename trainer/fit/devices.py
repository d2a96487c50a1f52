"""Training on several devices, of one machine or of many: each takes an equal part of a batch.

Keras' data parallelism on JAX: every machine runs the same program, and has its devices compute its
rows of every batch; JAX adds up the gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import Columns
from trainer.run import RunError


def check_backend() -> None:
    """Raise RunError unless Keras runs on JAX."""
    backend = keras.backend.backend()
    if backend != "jax":
        raise RunError(
            f"--devices all needs Keras on JAX, not on {backend}: pip install "
            "'genre-stream[jax]', and set KERAS_BACKEND=jax"
        )


def use_all_devices(batch: int) -> None:
    """Divide batches among all devices that JAX has from now on; networks are built after it.

    `RunError` is raised if a batch cannot be divided evenly.
    """
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


@contextmanager
def alone() -> Iterator[None]:
    """Do not divide what this process computes meanwhile, which the others do not.

    Keras creates variables when it saves a network; the processes of a group would wait for each
    other to create the same.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def own_rows(batch: int) -> slice:
    """Return which rows of a batch this process computes."""
    if keras.distribution.distribution() is None:
        return slice(batch)
    import jax

    rows = batch // jax.process_count()
    return slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)


def predict(
    network: keras.Model, windows: Columns, batch: int, after_batch: Callable[[], None]
) -> NDArray[np.float32]:
    """Return the logits of windows, of which every process is given all.

    Keras' own `predict` fails where other processes have a part of the logits.
    """
    if keras.distribution.distribution() is None:
        callback = keras.callbacks.LambdaCallback(
            on_predict_batch_end=lambda *_, **_kwargs: after_batch()
        )
        logits = network.predict(windows, batch_size=batch, verbose=0, callbacks=[callback])
        return np.asarray(logits, np.float32)
    import jax

    forward, sharding = _divided(network)
    weights = [
        [variable.value for variable in variables]
        for variables in (network.trainable_variables, network.non_trainable_variables)
    ]
    own = own_rows(batch)
    answers = []
    for start in range(0, len(windows), batch):
        # The last batch is filled up, so that every device has the same number of rows.
        rows = np.resize(windows[start : start + batch], (batch, *windows.shape[1:]))
        part = jax.make_array_from_process_local_data(sharding, rows[own])
        answers.append(np.asarray(forward(*weights, part), np.float32))
        after_batch()
    return np.concatenate(answers)[: len(windows)]


@functools.lru_cache(maxsize=1)
def _divided(network: keras.Model) -> tuple[Callable[..., Any], Any]:
    """Return a network as a function of weights and a divided batch, and how batches are divided.

    All processes get all of its result.
    """
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("batch",))

    def forward(trainable: Any, other: Any, windows: Any) -> Any:
        return network.stateless_call(trainable, other, windows, training=False)[0]

    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(forward, out_shardings=everywhere), NamedSharding(mesh, PartitionSpec("batch"))
