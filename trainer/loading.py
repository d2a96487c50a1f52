"""Load what can be evaluated, a training run or an exported model, as a `Classifier`."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamer.core.model import Answers, Classifier
from streamer.system.processors import processors
from trainer.run import read_head
from trainer.second_network import SecondNetwork, from_file, from_head


class RunClassifier(Classifier):
    """The Keras network of a run folder, with the interface of an exported model."""

    def __init__(self, folder: Path) -> None:
        from trainer.network import load_network

        self._network, self.run = load_network(folder)
        self.contract = self.run.contract()
        self._folder = folder

    @functools.cached_property
    def second(self) -> SecondNetwork | None:
        """The second network of the run, if it has one. Its head is read when it is first used."""
        fusion = self.run.fusion
        return from_head(read_head(self._folder, self.run), fusion) if fusion else None

    def logits(
        self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Return the logits of the run; see `streamer.core.model.Classifier.logits`."""
        if audio is not None:
            return self.answers(spectrograms, audio).logits
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

    def answers(self, spectrograms: NDArray[np.float32], audio: NDArray[np.float32]) -> Answers:
        """Return what both networks say; see `streamer.core.model.Classifier.answers`."""
        if self.second is None:
            raise ValueError("the run has no network that takes audio")
        seen, tags = self.logits(spectrograms), self.second.tags(audio)
        heard = self.second.logits(tags)
        return Answers(self.second.fused(seen, heard), seen, heard, tags)


class FileClassifier(Classifier):
    """A model file that knows where it lies."""

    path: Path


def second_network(classifier: Classifier) -> SecondNetwork | None:
    """Return the second network of what `load_classifier` returned, if it has one."""
    if isinstance(classifier, RunClassifier):
        return classifier.second
    audio, fusion = classifier.contract.audio, classifier.contract.fusion
    if audio is None or not isinstance(classifier, FileClassifier):
        return None
    return from_file(classifier.path, fusion, audio.seconds)


def load_classifier(path: Path) -> Classifier:
    """Load a run folder (errors: NetworkError, RunError) or an `.onnx` file (ModelError)."""
    if path.is_dir():
        return RunClassifier(path)
    classifier = FileClassifier.load(path, threads=processors())
    assert isinstance(classifier, FileClassifier)
    classifier.path = path
    return classifier
