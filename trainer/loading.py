"""Load what can be evaluated, a training run or an exported model, as a `Classifier`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.model import Classifier, Golden, ModelContract
from streamer.core.spectrogram import SpectrogramSpec
from streamer.system.processors import processors


class RunClassifier(Classifier):
    """The Keras network of a training run, with the interface of an exported model.

    Parameters
    ----------
    run : Path
        Folder of a finished run.

    Raises
    ------
    trainer.network.NetworkError, trainer.tracks.DatasetError
        If the folder is not a finished run.
    """

    def __init__(self, run: Path) -> None:
        from trainer.network import load_run

        self._network, self.facts = load_run(run)
        self.contract = _contract(self.facts)

    def logits(self, spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's logits; see `streamer.core.model.Classifier.logits`."""
        import keras

        from trainer.network import with_preprocessing

        frames = spectrograms.shape[2]
        if frames == self.contract.window_frames:
            return np.asarray(self._network.predict_on_batch(spectrograms), np.float32)
        # The first windows of a stream are shorter. They are so few that compiling a network for
        # each width would cost more than running it eagerly.
        image_network, scale = self._network.layers[-1], float(self.facts["input_scale"])
        network = with_preprocessing(image_network, self.contract.spectrogram, frames, scale)
        answer = network(spectrograms, training=False)
        return np.asarray(keras.ops.convert_to_numpy(answer), np.float32)


def _contract(facts: Mapping[str, Any]) -> ModelContract:
    """Return the contract that a run's exported model will have, without a golden answer."""
    return ModelContract(
        name="run",
        version="0",
        labels=tuple(facts["labels"]),
        not_music=facts.get("not_music"),
        spectrogram=SpectrogramSpec.from_dict(facts["spec"]),
        window_frames=int(facts["window_frames"]),
        min_frames=int(facts["min_frames"]),
        temperature=float(facts.get("temperature") or 1.0),
        decision=facts.get("decision") or {},
        training={},
        golden=Golden("", int(facts["window_frames"]), ()),
    )


def load_classifier(path: Path) -> Classifier:
    """Load a run folder or an `.onnx` file.

    Raises
    ------
    trainer.network.NetworkError, trainer.tracks.DatasetError, streamer.core.model.ModelError
        If it is neither or is damaged.
    """
    if path.is_dir():
        return RunClassifier(path)
    return Classifier.load(path, threads=processors())
