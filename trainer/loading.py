"""Load what can be evaluated, a training run or an exported model, as a `Classifier`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.core.model import Classifier
from streamer.system.processors import processors


class RunClassifier(Classifier):
    """The Keras network of a run folder, with the interface of an exported model."""

    def __init__(self, folder: Path) -> None:
        from trainer.network import load_network

        self._network, self.run = load_network(folder)
        self.contract = self.run.contract()

    def logits(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the network's logits; see `streamer.core.model.Classifier.logits`."""
        if audio is not None:
            raise ValueError("the network of a run takes no audio")
        import keras

        from trainer.network import with_preprocessing

        frames = spectrograms.shape[2]
        if frames == self.contract.window_frames:
            return np.asarray(self._network.predict_on_batch(spectrograms), np.float32)
        # The first windows of a stream are shorter. They are so few that compiling a network for
        # each width would cost more than running it eagerly.
        image_network, scale = self._network.layers[-1], self.run.input_scale
        network = with_preprocessing(image_network, self.contract.spectrogram, frames, scale)
        answer = network(spectrograms, training=False)
        return np.asarray(keras.ops.convert_to_numpy(answer), np.float32)


def load_classifier(path: Path) -> Classifier:
    """Load a run folder (errors: NetworkError, RunError) or an `.onnx` file (ModelError)."""
    if path.is_dir():
        return RunClassifier(path)
    return Classifier.load(path, threads=processors())
