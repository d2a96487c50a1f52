"""MusiCNN in Keras 3, from samples to tags.

Source: J. Pons et al., "End-to-end learning for music audio tagging at scale", ISMIR 2018
(arXiv:1711.02520), for the front end; J. Pons and X. Serra, "musicnn", 2019 (arXiv:1909.06654), for
the rest and the weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# TensorFlow prints a page about its build on import unless told before.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from numpy.typing import NDArray

from streamer.core.spectrogram import band_mels, mel_filterbank, mel_to_hz
from trainer.musicnn import MIN_SAMPLES, PIECE_FRAMES, PIECE_HOP, PIECE_SAMPLES, SPEC, TAGS, WEIGHTS


@dataclass(frozen=True, slots=True)
class FrontLayer:
    """Filters of one shape in the front end."""

    frames: int
    """Columns under a filter."""
    bands: int
    """Mel bands under a filter."""
    filters: int
    """How many there are."""

    @property
    def name(self) -> str:
        """Name of the Keras layer."""
        return f"front_{self.frames}x{self.bands}"


TIMBRAL = (FrontLayer(7, 38, 23), FrontLayer(7, 67, 14))
"""Vertical filters. In the paper there are 204 of each shape."""

EDGE_FRAMES = TIMBRAL[0].frames // 2
"""Columns at each end of a piece where a vertical filter sees zeros beyond it."""

TEMPORAL = (FrontLayer(128, 1, 12), FrontLayer(32, 1, 16))
"""Horizontal filters. In the paper there are 51 of each of the lengths 128, 64 and 32.

The training left nine tenths of all filters without weights, so that they always answer the same.
Those are not computed; the last one of the last layer answers 1 and stands for all of them. See
`weights.without_idle_filters`. All that are left of 64 columns, and two of 32, are among those of
128: see `weights.in_groups`.
"""

MIDDLE_FILTERS, MIDDLE_FRAMES, MIDDLE_LAYERS = 64, 7, 3
"""Layers between the front end and the pooling over time."""

DENSE_UNITS, DROPOUT = 200, 0.5
"""The layer before the tags."""

EPSILON = 1e-3
"""What the normalisations add to the variance."""

LOUDNESS = 10000.0
"""Factor on the power before its logarithm."""


USUAL_DBFS, FULL_GAIN_DBFS = (-20.0, -10.0), (-30.0, -7.0)
"""Levels of music as it is published, whose gain is 0 dB, and levels below and above which all
sound is brought to `REFERENCE_DBFS`; in between the gain changes steadily."""

REFERENCE_DBFS = -15.0
"""Median level of GTZAN, RMS over 5 s."""

LEAST_DBFS = -75.0
"""Level below which the gain grows no more."""

STEEPEST_DB = -3.5
"""Most that the level of a window's bands may change by octave: of published music four windows in
five fall by more. Sound with more treble is brought down to it."""

SLOPE_HZ = (100.0, 7000.0)
"""Between these the slope is measured."""

PIVOT_HZ = 800.0
"""What stays as it is when the slope changes."""

LEAST_POWER = 1e-9
"""Power of a band, added so that silence has a level."""


class WeightsError(ValueError):
    """A file of weights that does not fit the network; the message names it."""


def fourier_matrices(n_fft: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the Hann-windowed cosines and sines, of samples 1 to `n_fft / 2` of a frame.

    Cosines are symmetric to the middle of a frame and sines antisymmetric, and so is the window:
    the former see a frame's sum with its mirror image, the latter the difference. Sample 0, where
    the window is 0, has none.

    Returns
    -------
    cosines : float32, shape (n_fft / 2, n_fft / 2 + 1)
        Of bins 0 to `n_fft / 2`; of the middle, which is its own mirror image, a half.
    sines : float32, shape (n_fft / 2 - 1, n_fft / 2 - 1)
        Of bins 1 to `n_fft / 2 - 1`; the others have none, nor has the middle.
    """
    half = n_fft // 2
    times = np.arange(1, half + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * times / n_fft)
    window[-1] /= 2
    angles = 2 * np.pi * np.outer(times, np.arange(half + 1)) / n_fft
    cosines = window[:, None] * np.cos(angles)
    sines = (window[:, None] * np.sin(angles))[:-1, 1:-1]
    return np.asarray(cosines, np.float32), np.asarray(sines, np.float32)


def octaves_and_slope() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return where the mel bands lie, and what measures the slope of their levels.

    Returns
    -------
    octaves : float32, shape (n_mels,)
        Distance of each band's centre from `PIVOT_HZ`.
    slope : float32, shape (n_mels, 1)
        The product of levels in dB with it is their slope by octave, from least squares over the
        bands within `SLOPE_HZ`.
    """
    centres = mel_to_hz(band_mels(SPEC))
    octaves = np.log2(centres / PIVOT_HZ)
    within = (centres > SLOPE_HZ[0]) & (centres < SLOPE_HZ[1])
    deviations = np.where(within, octaves - octaves[within].mean(), 0)
    slope = deviations / np.square(deviations).sum()
    return np.asarray(octaves, np.float32), np.asarray(slope[:, None], np.float32)


@keras.saving.register_keras_serializable(package="genre_stream")
class Level(keras.layers.Layer):  # type: ignore[misc]
    """Bring sound that is quieter or louder than published music to the level of that.

    MusiCNN's cells are absolute, and it has heard mastered music alone: 20 dB below, as behind a
    microphone, two thirds of what it knows about genres are gone. Published music is left as it is.
    """

    def call(self, audio: Any) -> Any:
        """Map `(batch, samples)` to the same shape."""
        ops = keras.ops
        power = ops.mean(ops.square(audio), axis=1, keepdims=True)
        level = 10 / float(np.log(10)) * ops.log(power + 10 ** (LEAST_DBFS / 10))
        (quiet, loud), (least, most) = USUAL_DBFS, FULL_GAIN_DBFS
        # Slopes on both sides of what is usual, such that the reference is met at the outer ends.
        up = (REFERENCE_DBFS - least) / (quiet - least)
        down = (REFERENCE_DBFS - most) / (most - loud)
        gain = up * ops.relu(quiet - level) + (1 - up) * ops.relu(least - level)
        gain = gain + down * ops.relu(level - loud) - (1 + down) * ops.relu(level - most)
        return audio * ops.exp(float(np.log(10)) / 20 * gain)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape


@keras.saving.register_keras_serializable(package="genre_stream")
class LogMel(keras.layers.Layer):  # type: ignore[misc]
    """MusiCNN's spectrogram, as matrix products: `(batch, samples)` to `(batch, frames, n_mels)`.

    The last column ends with the last sample; what is left over in front is not used. 128 samples
    are mirrored in front, so that 3 s make one piece of 187 columns: otherwise these would need
    3.008 s. The window of the first column all but hides them.

    The slope of the mean spectrum is at most `STEEPEST_DB`: MusiCNN knows no music with more
    treble, as small microphones make it of any.

    Float32 throughout: the authors' package rounds to float16, whose largest number, 65,504, the
    scaled power of loud music exceeds many times; it then answers NaN.
    """

    def build(self, input_shape: Any) -> None:
        """Make the matrices."""
        self._cosines, self._sines = fourier_matrices(SPEC.n_fft)
        self._filters = mel_filterbank(SPEC).T
        self._octaves, self._slope = octaves_and_slope()

    def call(self, audio: Any) -> Any:
        """Map samples at 16 kHz, full scale 1, to `log10(10000 power + 1)`."""
        ops, hop = keras.ops, SPEC.hop_length
        mirrored = audio[:, PIECE_SAMPLES - MIN_SAMPLES : 0 : -1]
        audio = ops.concatenate([mirrored, audio], axis=1)
        rest = ops.shape(audio)[1] % hop
        # A frame is two hops long; the middle is the first sample of its second one.
        hops = ops.reshape(audio[:, rest:], (-1, (ops.shape(audio)[1] - rest) // hop, hop))
        before = ops.concatenate([hops[:, :-1, 1:], hops[:, 1:, :1]], axis=2)
        after = hops[:, 1:, ::-1]
        power = ops.matmul(ops.square(ops.matmul(before + after, self._cosines)), self._filters)
        sines = ops.matmul((before - after)[:, :, :-1], self._sines)
        power = power + ops.matmul(ops.square(sines), self._filters[1:-1])
        power = power * self._gain(power)
        # ONNX has neither log1p nor a logarithm to the base of 10.
        return ops.log(LOUDNESS * power + 1) / float(np.log(10))

    def _gain(self, power: Any) -> Any:
        """Return what limits the slope of a spectrogram, `(batch, 1, n_mels)`, as a factor."""
        ops, decibel = keras.ops, float(np.log(10)) / 10
        levels = ops.log(ops.mean(power, axis=1, keepdims=True) + LEAST_POWER) / decibel
        excess = ops.relu(ops.matmul(levels, self._slope) - STEEPEST_DB)
        return ops.exp(-decibel * excess * self._octaves)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, Any, int]:
        """Return `(batch, frames, n_mels)`."""
        return (input_shape[0], None, SPEC.n_mels)


@keras.saving.register_keras_serializable(package="genre_stream")
class Loudest(keras.layers.Layer):  # type: ignore[misc]
    """Take each filter where it is loudest over the mel bands, and cut it off below 0.

    In the paper the normalisation comes before this maximum. It either rises or falls with what a
    filter answers, so behind the maximum it gives the same, for a hundredth of the work; where it
    falls, the filter has to be negated (by `weights.convert`) and `sign` is -1.
    """

    def build(self, input_shape: Any) -> None:
        """Make the signs."""
        self.sign = self.add_weight(
            shape=(input_shape[-1],), initializer="ones", trainable=False, name="sign"
        )

    def call(self, maps: Any) -> Any:
        """Map `(batch, frames, bands, filters)` to `(batch, frames, filters)`."""
        return keras.ops.relu(keras.ops.max(maps, axis=2) * self.sign)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Return `(batch, frames, filters)`."""
        return (*input_shape[:2], input_shape[3])


@keras.saving.register_keras_serializable(package="genre_stream")
class EachPiece(keras.layers.Layer):  # type: ignore[misc]
    """Cut spectrograms into pieces of 3 s, one a second, and return the mean of their tags.

    The last piece ends with the last column. Vertical filters see 7 columns, so their answers are
    computed once for all pieces that have these columns, and anew only at both ends of a piece,
    where they see zeros instead of what is beyond. That saves a quarter of the time for 5 s.

    Parameters
    ----------
    network : keras.Model
        MusiCNN for one piece, from `build_piece_network`.
    """

    def __init__(self, network: keras.Model, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.network = network
        self._image_norm = network.get_layer("image_norm")
        timbres = [network.get_layer(f"{layer.name}_norm").output for layer in TIMBRAL]
        image = network.get_layer("image_last").output
        self._after_timbres = keras.Model([image, *timbres], network.output)

    def call(self, spectrograms: Any) -> Any:
        """Map `(batch, frames, n_mels)` to `(batch, tags)`."""
        ops, edge = keras.ops, EDGE_FRAMES
        batch, frames = ops.shape(spectrograms)[:2]
        count = (frames - PIECE_FRAMES) // PIECE_HOP + 1
        first = frames - PIECE_FRAMES - (count - 1) * PIECE_HOP
        starts = first + PIECE_HOP * ops.arange(count)

        def each_piece(columns: Any, length: int) -> Any:
            """Return `length` columns from each piece's start, shape `(batch * pieces, ...)`."""
            chosen = ops.take(columns, starts[:, None] + ops.arange(length)[None, :], axis=1)
            return ops.reshape(chosen, (-1, length, *chosen.shape[3:]))

        image = self._image_norm(spectrograms[:, None])[:, 0, :, :, None]
        pieces = each_piece(image, PIECE_FRAMES)
        padding = ((0, 0), (edge, 0), (0, 0), (0, 0)), ((0, 0), (0, edge), (0, 0), (0, 0))
        begins = ops.pad(pieces[:, : 2 * edge], padding[0])
        ends = ops.pad(pieces[:, -2 * edge :], padding[1])
        timbres = []
        for layer in TIMBRAL:
            inner = each_piece(self._timbre(layer, image), PIECE_FRAMES - 2 * edge)
            parts = [self._timbre(layer, begins), inner, self._timbre(layer, ends)]
            timbres.append(ops.concatenate(parts, axis=1))
        tags = self._after_timbres([pieces, *timbres], training=False)
        return ops.mean(ops.reshape(tags, (batch, count, tags.shape[-1])), axis=1)

    def _timbre(self, layer: FrontLayer, image: Any) -> Any:
        """Map `(n, frames, n_mels, 1)` to `(n, frames - 2 * EDGE_FRAMES, filters)`."""
        for part in ("", "_loudest", "_norm"):
            image = self.network.get_layer(f"{layer.name}{part}")(image)
        return image

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, int]:
        """Return `(batch, tags)`."""
        return (input_shape[0], self.network.output_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Return what Keras needs to make this layer again."""
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> EachPiece:
        """Make the layer again."""
        network = keras.saving.deserialize_keras_object(config.pop("network"))
        return cls(network, **config)


def build_piece_network(weights: Path | None = WEIGHTS) -> keras.Model:
    """Return MusiCNN for one piece.

    Parameters
    ----------
    weights : Path or None
        From `trainer.musicnn.weights`; None leaves the network untrained.

    Returns
    -------
    keras.Model
        float32 `(batch, PIECE_FRAMES, n_mels)`, cells `log10(10000 power + 1)`, to the
        probabilities of `TAGS`, `(batch, 50)`.

    Raises
    ------
    WeightsError
        If the file is not of this network.
    """
    pieces = keras.Input((PIECE_FRAMES, SPEC.n_mels), name="pieces")
    front = _front_end(pieces)
    features = keras.layers.Concatenate(name="middle_out")([front, *_middle(front)])
    network = keras.Model(pieces, _back_end(features), name="musicnn")
    if weights is not None:
        load_weights(network, weights)
    return network


def _norm(name: str, axis: int = -1) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(axis, epsilon=EPSILON, name=f"{name}_norm")


def _front_end(pieces: Any) -> Any:
    """Hear timbres (vertical filters) and rhythms (horizontal ones), each wherever it is loudest.

    The maximum over the mel bands makes a timbre the same at every pitch.
    """
    layers = keras.layers
    # onnxruntime would normalise an image with the channel last value by value.
    image = layers.Reshape((1, PIECE_FRAMES, SPEC.n_mels), name="image")(pieces)
    image = _norm("image", axis=1)(image)
    image = layers.Reshape((PIECE_FRAMES, SPEC.n_mels, 1), name="image_last")(image)
    # Padded in time alone: the maximum follows over all bands.
    padded = layers.ZeroPadding2D((EDGE_FRAMES, 0), name="padded")(image)
    heard = []
    for layer in (*TIMBRAL, *TEMPORAL):
        source, border = (padded, "valid") if layer in TIMBRAL else (image, "same")
        shape = (layer.frames, layer.bands)
        maps = layers.Conv2D(layer.filters, shape, padding=border, name=layer.name)(source)
        loudest = Loudest(name=f"{layer.name}_loudest")(maps)
        heard.append(_norm(layer.name)(loudest))
    return layers.Concatenate(name="front_out")(heard)


def _middle(front: Any) -> list[Any]:
    """Return the outputs of the layers over time; each adds to the one before."""
    outputs: list[Any] = []
    features = front
    for number in range(1, MIDDLE_LAYERS + 1):
        name = f"middle_{number}"
        found = keras.layers.Conv1D(
            MIDDLE_FILTERS, MIDDLE_FRAMES, padding="same", activation="relu", name=name
        )(features)
        found = _norm(name)(found)
        # The front end has another number of features and cannot be added to.
        features = keras.layers.Add(name=f"{name}_sum")([found, features]) if outputs else found
        outputs.append(features)
    return outputs


def _back_end(features: Any) -> Any:
    layers = keras.layers
    pooled = [
        layers.GlobalMaxPooling1D(name="maximum")(features),
        layers.GlobalAveragePooling1D(name="mean")(features),
    ]
    pooled = _norm("pooled")(layers.Concatenate(name="pooled")(pooled))
    pooled = layers.Dropout(DROPOUT, name="pooled_dropout")(pooled)
    dense = layers.Dense(DENSE_UNITS, activation="relu", name="dense")(pooled)
    dense = layers.Dropout(DROPOUT, name="dense_dropout")(_norm("dense")(dense))
    return layers.Dense(len(TAGS), activation="sigmoid", name="tags")(dense)


def load_weights(network: keras.Model, path: Path) -> None:
    """Put the weights of a file into the network, by the names of layers and variables.

    Raises
    ------
    WeightsError
        If the file lacks a weight, has one too many or one of another shape.
    """
    with np.load(path) as file:
        arrays = {name: np.asarray(file[name], np.float32) for name in file.files}
    variables = {
        variable_name(layer, each): each for layer in network.layers for each in layer.weights
    }
    if strange := sorted(set(arrays) ^ set(variables)):
        raise WeightsError(f"{path}: not weights of MusiCNN: {strange[0]} is missing or unknown")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise WeightsError(
                f"{path}: {name} has shape {arrays[name].shape}, not {tuple(variable.shape)}"
            )
        variable.assign(arrays[name])


def variable_name(layer: Any, variable: Any) -> str:
    """Return the name under which a weight is stored."""
    return f"{layer.name}/{variable.name}"


def build_tagger(weights: Path | None = WEIGHTS) -> keras.Model:
    """Return MusiCNN from samples to tags.

    Parameters
    ----------
    weights : Path or None
        See `build_piece_network`.

    Returns
    -------
    keras.Model
        `audio`, float32 `(batch, samples)`: mono at 16 kHz, full scale 1, finite, `MIN_SAMPLES` or
        more, of any level (see `Level`). Gives `tags`, `(batch, 50)`: the mean of the probabilities
        of the pieces of 3 s, one a second, the last of which ends with the last sample.

    Raises
    ------
    WeightsError
        If the file is not of this network.
    """
    audio = keras.Input((None,), name="audio")
    columns = LogMel(name="log_mel")(Level(name="level")(audio))
    tags = EachPiece(build_piece_network(weights), name="each_piece")(columns)
    return keras.Model(audio, tags, name="tagger")
