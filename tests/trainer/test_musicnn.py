"""MusiCNN: the tags that its authors' package gives, from samples of any length."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from streamer.core.spectrogram import band_mels, mel_to_hz
from trainer.degradation import response
from trainer.musicnn import (
    MIN_SAMPLES,
    PIECE_FRAMES,
    PIECE_HOP,
    PIECE_SAMPLES,
    SPEC,
    TAGS,
    WEIGHTS,
    pieces_of_track,
)

keras = pytest.importorskip("keras")

from trainer.audio import read_audio  # noqa: E402
from trainer.musicnn import network  # noqa: E402
from trainer.musicnn.network import (  # noqa: E402
    EachPiece,
    FrontLayer,
    Level,
    LogMel,
    WeightsError,
    build_piece_network,
    build_tagger,
    load_weights,
)
from trainer.musicnn.weights import in_groups, main, save, without_idle_filters  # noqa: E402


@pytest.fixture(scope="module")
def tagger() -> keras.Model:
    return build_tagger()


def sound(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return chords that change every second, shape (1, n).

    Its level and the slope of its spectrum, about -6 dB an octave, are those of published music.
    """
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * SPEC.sample_rate)) / SPEC.sample_rate
    pitches = random.uniform(60, 2000, (round(seconds) + 1, 6))[times.astype(int)]
    waves = np.sin(2 * np.pi * pitches * times[:, None]).sum(axis=1)
    noise = random.standard_normal(len(times)) * (np.sin(2 * np.pi * 2 * times) > 0.7)
    return at_level(tilted(np.asarray(0.5 * waves + noise, np.float32)[None], -6), -15)


def tilted(audio: NDArray[np.float32], decibels: float) -> NDArray[np.float32]:
    """Change the level by so many decibels more with every octave above 100 Hz."""
    points = {100: 0.0, 8000: np.log2(80) * decibels}
    return response(audio[0], SPEC.sample_rate, np.random.default_rng(), points)[None]


def at_level(audio: NDArray[np.float32], dbfs: float) -> NDArray[np.float32]:
    return np.asarray(audio * 10 ** (dbfs / 20) / np.sqrt((audio**2).mean()), np.float32)


def tags_of(tagger: keras.Model, audio: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(tagger.predict(audio, verbose=0, batch_size=8))


@pytest.mark.shared
def test_the_tags_of_real_tracks_are_those_of_the_authors(
    tagger: keras.Model, shared: Path, measured: Callable[[str], None]
) -> None:
    published = np.load(shared / "gtzan" / "musicnn_tags_train.npz")
    paths = sorted(shared.glob("gtzan/audio/*/*.flac"))
    paths = [path for path in paths if path.stem in published.files]
    ours, theirs = [], []
    for path in paths:
        pieces = pieces_of_track(read_audio(path, SPEC.sample_rate))
        assert len(pieces) == len(published[path.stem])
        # The last pieces show whether ours are as far apart as theirs.
        ours.append(tags_of(tagger, pieces[3::8]))
        theirs.append(published[path.stem][3::8])
    tags, expected = np.concatenate(ours), np.concatenate(theirs)
    difference = float(np.abs(tags - expected).mean())
    correlation = float(np.corrcoef(tags.ravel(), expected.ravel())[0, 1])
    measured(f"MusiCNN, {len(paths)} tracks: mean difference {difference:.4f}, r {correlation:.4f}")
    assert len(paths) == 40
    assert difference < 0.004
    assert correlation > 0.99


@pytest.mark.parametrize("samples", [MIN_SAMPLES, MIN_SAMPLES + 1, 66_666, 80_000])
def test_any_length_from_three_seconds_up_gives_fifty_probabilities(
    tagger: keras.Model, samples: int
) -> None:
    audio = np.repeat(sound(6)[:, :samples], 2, axis=0)
    tags = tags_of(tagger, audio)
    assert tags.shape == (2, len(TAGS)) == (2, 50)
    assert ((tags > 0) & (tags < 1)).all()
    np.testing.assert_allclose(tags[0], tags[1], atol=1e-6)


def test_the_tags_are_the_mean_of_three_pieces_in_five_seconds(tagger: keras.Model) -> None:
    audio = sound(5)
    ends = [audio.shape[1] - back * PIECE_HOP * SPEC.hop_length for back in (2, 1, 0)]
    pieces = np.concatenate([audio[:, end - PIECE_SAMPLES : end] for end in ends])
    alone = tags_of(tagger, pieces)
    assert np.abs(alone[0] - alone[2]).max() > 0.01
    np.testing.assert_allclose(tags_of(tagger, audio)[0], alone.mean(axis=0), atol=1e-6)


def test_only_the_last_whole_pieces_count(tagger: keras.Model) -> None:
    audio = sound(3.9)
    other, before = audio.copy(), audio.shape[1] - PIECE_SAMPLES
    other[:, :before] = audio[:, :before][:, ::-1]
    np.testing.assert_allclose(tags_of(tagger, audio), tags_of(tagger, other), atol=1e-5)


@pytest.mark.parametrize("dbfs", [-30, -45, -60])
def test_quiet_music_has_the_tags_of_published_music(tagger: keras.Model, dbfs: float) -> None:
    audio = sound(3)
    tags = tags_of(tagger, at_level(audio, dbfs))
    np.testing.assert_allclose(tags, tags_of(tagger, audio), atol=0.01)


@pytest.mark.parametrize(
    ("before", "after"),
    [(-40, -15), (-30, -15), (-25, -17.5), (-20, -20), (-15, -15), (-10, -10), (-7, -15), (0, -15)],
)
def test_the_levels_of_published_music_stay_and_others_become_theirs(
    before: float, after: float
) -> None:
    changed = np.asarray(Level()(at_level(sound(3), before)))
    assert 10 * np.log10((changed**2).mean()) == pytest.approx(after, abs=0.01)


@pytest.mark.parametrize(("before", "after"), [(-9, -9), (-4, -4), (-2, -3.5), (3, -3.5)])
def test_sound_with_more_treble_than_published_music_has_gets_less(
    before: float, after: float
) -> None:
    white = np.random.default_rng(0).standard_normal((1, MIN_SAMPLES))
    cells = np.asarray(LogMel()(at_level(tilted(white, before), -15)), np.float64)[0]
    levels = 10 * np.log10((10**cells - 1).mean(axis=0))
    hertz = mel_to_hz(band_mels(SPEC))
    within = (hertz > 200) & (hertz < 7000)
    slope, _ = np.polyfit(np.log2(hertz[within]), levels[within], 1)
    assert slope == pytest.approx(after, abs=0.3)


def test_loud_music_has_finite_tags(tagger: keras.Model) -> None:
    times = np.arange(MIN_SAMPLES) / SPEC.sample_rate
    square = np.sign(np.sin(2 * np.pi * 50 * times)).astype(np.float32)[None]
    log_mel = np.asarray(LogMel()(square))
    largest_of_float16 = 65504
    assert log_mel.max() > np.log10(100 * largest_of_float16)
    assert np.isfinite(log_mel).all()
    assert np.isfinite(tags_of(tagger, square)).all()


def test_silence_has_finite_tags(tagger: keras.Model) -> None:
    assert np.isfinite(tags_of(tagger, np.zeros((1, MIN_SAMPLES), np.float32))).all()


def test_the_spectrogram_is_librosas() -> None:
    librosa = pytest.importorskip("librosa")
    audio = sound(3)
    power = librosa.feature.melspectrogram(
        # 128 samples are mirrored in front of them.
        y=np.pad(audio[0], (PIECE_SAMPLES - MIN_SAMPLES, 0), mode="reflect"),
        sr=SPEC.sample_rate,
        n_fft=SPEC.n_fft,
        hop_length=SPEC.hop_length,
        n_mels=SPEC.n_mels,
        center=False,
    )
    ours = np.asarray(LogMel()(audio))[0]
    assert ours.shape == (PIECE_FRAMES, SPEC.n_mels)
    np.testing.assert_allclose(ours, np.log10(10000 * power.T + 1), atol=2e-4)


def test_a_track_is_cut_as_centred_columns_are() -> None:
    track = np.arange(1, 30 * SPEC.sample_rate + 1, dtype=np.float32)
    pieces = pieces_of_track(track)
    assert pieces.shape == (28, PIECE_SAMPLES)
    assert not pieces[0, :256].any()
    assert pieces[0, 256] == 1
    assert pieces[1, 0] == PIECE_HOP * SPEC.hop_length - 256 + 1


@pytest.mark.parametrize("shape", [(MIN_SAMPLES - 1,), (1, MIN_SAMPLES)])
def test_a_track_too_short_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"not \({shape[0]},"):
        pieces_of_track(np.zeros(shape, np.float32))


def with_random_weights(
    whole: keras.Model, idle: int, path: Path
) -> dict[str, NDArray[np.float32]]:
    """Give a network random weights, `idle` filters of each layer in front none, and return all."""
    random = np.random.default_rng(3)
    weights = {}
    for layer in whole.layers:
        for variable in layer.weights:
            name, shape = network.variable_name(layer, variable), variable.shape
            positive = name.endswith(("gamma", "variance"))
            drawn = random.uniform(0.5, 2, shape) if positive else random.normal(0, 0.05, shape)
            if name.endswith("sign"):
                drawn = random.choice([-1, 1], shape)
            if "front" in name and name.endswith("kernel"):
                drawn[..., :idle] = 1e-20
            weights[name] = drawn.astype(np.float32)
    np.savez(path, **weights)
    load_weights(whole, path)
    return weights


def same_function(first: keras.Model, second: keras.Model) -> None:
    random = np.random.default_rng(3)
    pieces = random.uniform(0, 4, (2, PIECE_FRAMES, SPEC.n_mels)).astype(np.float32)
    expected = first(pieces, training=False)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(second(pieces, training=False), expected, atol=1e-5)


def test_filters_that_hear_nothing_can_be_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every layer of the front end has two idle filters; the last has the constant one instead."""
    with monkeypatch.context() as patch:
        for group in ("TIMBRAL", "TEMPORAL"):
            more = [
                dataclasses.replace(layer, filters=layer.filters + (1 if layer.frames == 32 else 2))
                for layer in getattr(network, group)
            ]
            patch.setattr(network, group, tuple(more))
        whole = build_piece_network(None)
    weights = with_random_weights(whole, 2, tmp_path / "whole.npz")
    save(without_idle_filters(weights), tmp_path / "pruned.npz")
    pruned = build_piece_network(tmp_path / "pruned.npz")
    assert pruned.count_params() < whole.count_params()
    same_function(whole, pruned)


def test_filters_among_longer_ones_hear_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lengths = FrontLayer(128, 1, 3), FrontLayer(64, 1, 7), FrontLayer(32, 1, 18)
    with monkeypatch.context() as patch:
        patch.setattr(network, "TEMPORAL", lengths)
        three = build_piece_network(None)
    save(in_groups(with_random_weights(three, 0, tmp_path / "3.npz")), tmp_path / "2.npz")
    same_function(three, build_piece_network(tmp_path / "2.npz"))


def test_the_front_end_gives_what_the_papers_order_of_its_layers_does() -> None:
    """In the paper the normalisation comes before the maximum; of two filters it falls."""
    whole = build_piece_network()
    pieces = np.log10(1 + 10000 * np.random.default_rng(3).random((1, PIECE_FRAMES, SPEC.n_mels)))
    falling = 0
    for layer in (*network.TIMBRAL, *network.TEMPORAL):
        filters, normalise, loudest = (
            whole.get_layer(f"{layer.name}{part}") for part in ("", "_norm", "_loudest")
        )
        until = keras.Model(whole.input, [filters.output, normalise.output])
        maps, ours = (np.asarray(each) for each in until(pieces, training=False))
        sign = np.asarray(loudest.sign)
        gamma, beta, mean, variance = (np.asarray(each) for each in normalise.weights)
        heard = np.maximum(maps * sign, 0) - mean
        papers = gamma * heard / np.sqrt(variance + network.EPSILON) + beta
        falling += int((gamma < 0).sum())
        np.testing.assert_allclose(ours, papers.max(axis=2), atol=1e-4)
    assert falling == 2


def test_pieces_that_share_columns_have_the_tags_of_each_alone() -> None:
    network = build_piece_network()
    columns = np.random.default_rng(3).uniform(0, 4, (2, 320, SPEC.n_mels)).astype(np.float32)
    ends = [320 - 2 * PIECE_HOP, 320 - PIECE_HOP, 320]
    alone = [network(columns[:, end - PIECE_FRAMES : end], training=False) for end in ends]
    assert np.ptp(np.asarray(alone), axis=0).max() > 0.01
    together = np.asarray(EachPiece(network)(columns))
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


def test_a_saved_tagger_comes_back(tagger: keras.Model, tmp_path: Path) -> None:
    tagger.save(tmp_path / "tagger.keras")
    audio = sound(3)
    again = keras.saving.load_model(tmp_path / "tagger.keras", compile=False)
    np.testing.assert_allclose(tags_of(again, audio), tags_of(tagger, audio), atol=1e-7)


def test_weights_of_something_else_are_refused_by_name(tmp_path: Path) -> None:
    with np.load(WEIGHTS) as file:
        arrays = dict(file)
    untrained = build_piece_network(None)
    lacking = {name: array for name, array in arrays.items() if name != "dense/bias"}
    np.savez(tmp_path / "lacking.npz", **lacking)
    with pytest.raises(WeightsError, match=r"lacking\.npz: .*dense/bias"):
        load_weights(untrained, tmp_path / "lacking.npz")
    np.savez(tmp_path / "short.npz", **(arrays | {"dense/bias": np.zeros(3)}))
    with pytest.raises(WeightsError, match=r"dense/bias has shape \(3,\), not \(200,\)"):
        load_weights(untrained, tmp_path / "short.npz")


def test_a_file_that_is_no_wheel_is_named_on_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    assert main([str(wheel), "--out", str(tmp_path / "weights.npz")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{wheel}: not the wheel of musicnn 0.1.0")


def test_the_licence_lies_beside_the_weights() -> None:
    assert "Universitat Pompeu Fabra" in WEIGHTS.with_name("LICENSE").read_text()
