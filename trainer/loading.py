"""What can be put to the test: a training run or an exported model, both behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.core.model import Classifier, Golden, ModelContract
from streamer.core.spectrogram import SpectrogramSpec
from streamer.system.scheduler import processors


class RunClassifier(Classifier):
    """The network of a training run, in Keras, where the daemon's pipeline expects a model file.

    Parameters
    ----------
    run : Path
        Folder of a finished run.

    Raises
    ------
    trainer.network.NetworkError, trainer.splits.DatasetError
        If the folder is not a finished run.
    """

    def __init__(self, run: Path) -> None:
        from trainer.network import load_run

        self._network, self.facts = load_run(run)
        self.contract = contract_of(self.facts)

    def logits(self, spectrograms: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the network's raw answers; see `streamer.core.model.Classifier.logits`."""
        import keras

        frames = spectrograms.shape[2]
        if frames == self.contract.window_frames:
            return np.asarray(self._network.predict_on_batch(spectrograms), np.float32)
        # Rare: the first windows of a stream. Compiling a network for each width costs more.
        answer = self._network_for(frames)(spectrograms, training=False)
        return np.asarray(keras.ops.convert_to_numpy(answer), np.float32)

    def _network_for(self, frames: int) -> Any:
        from trainer.network import with_preprocessing

        return with_preprocessing(
            self._network.layers[-1],
            self.contract.spectrogram,
            frames,
            float(self.facts["input_scale"]),
        )


def contract_of(facts: Mapping[str, Any]) -> ModelContract:
    """Return a run's contract as its exported model will have it, without a golden answer."""
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


def load_candidate(path: Path) -> Classifier:
    """Load a run folder or an `.onnx` file.

    Raises
    ------
    trainer.network.NetworkError, trainer.splits.DatasetError, streamer.core.model.ModelError
        If it is neither or is damaged.
    """
    if path.is_dir():
        return RunClassifier(path)
    return Classifier.load(path, threads=processors())
