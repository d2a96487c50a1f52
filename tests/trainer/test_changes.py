"""The training of the network that hears changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.pictures import write_pictures
from support.songs import write_songs

pytest.importorskip("keras")

from streamer.core import change
from streamer.core.change import GRID, judge
from streamer.core.spectrogram import SpectrogramSpec
from trainer import changes
from trainer.changes import (
    Examples,
    Recordings,
    build_network,
    main,
    noticed,
    read_recordings,
    train,
    weights_of,
)
from trainer.discovery import find_tracks


def recordings(folder: Path, spec: SpectrogramSpec = GRID) -> Recordings:
    data = write_pictures(folder, tracks=10, frames=round(30 / spec.hop_seconds), spec=spec)
    return read_recordings(find_tracks(data)[0], data, [], None)


@pytest.mark.parametrize("columns", [change.LEAST_COLUMNS, change.PAST_COLUMNS])
def test_the_daemon_computes_what_was_trained(columns: int) -> None:
    network = build_network()
    cepstra = np.random.default_rng(0).normal(size=(columns, change.COEFFICIENTS))
    wanted = network.predict(cepstra[None].astype(np.float32), verbose=0)[0]
    told = judge(cepstra.astype(np.float32), weights_of(network))
    np.testing.assert_allclose(told, wanted, atol=1e-4)


def test_a_training_tells_cuts_from_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "JUDGED", 300)
    monkeypatch.setattr(changes, "BATCH", 32)
    heard = recordings(tmp_path)
    untrained = weights_of(build_network())
    assert noticed(train(heard, steps=40), heard) > noticed(untrained, heard) + 0.2


def test_examples_end_with_other_sound_as_long_ago_as_they_say(tmp_path: Path) -> None:
    levels = [np.full((400, GRID.n_mels), level, np.float32) for level in (-60, -20)]
    for number, each in enumerate(levels):
        each[:, number * 64 : number * 64 + 64] += 15
    examples = Examples(Recordings(levels, [], 1.0, 1.0), np.random.default_rng(1), varied=False)
    found = 0
    for _ in range(100):
        cepstra, told = examples.batch(1)
        steps = np.abs(np.diff(cepstra[0, :, 1:], axis=0)).sum(axis=1)
        changed, age = told[0]
        if changed and steps.max() > 0.1:
            found += 1
            assert len(steps) - int(steps.argmax()) == round(age * change.AGE_COLUMNS)
    assert found > 10


def test_finer_columns_are_thinned_out_to_the_grid(tmp_path: Path) -> None:
    fine = SpectrogramSpec(hop_length=512)
    heard = recordings(tmp_path, fine)
    assert heard.music_stride == pytest.approx(GRID.hop_length / 512)
    cepstra, _ = Examples(heard, np.random.default_rng(0)).batch(3)
    assert change.LEAST_COLUMNS <= cepstra.shape[1] <= change.PAST_COLUMNS


def test_the_command_writes_weights_like_those_that_ship(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "JUDGED", 40)
    data = write_pictures(tmp_path / "pictures", tracks=10, frames=400, spec=GRID)
    out = tmp_path / "changes.npz"
    assert main(["--data", str(data), "--steps", "2", "--out", str(out)]) == 0
    assert "on the valid list" in capsys.readouterr().out
    with np.load(out) as made, np.load(change.WEIGHTS) as ships:
        assert {n: made[n].shape for n in made.files} == {n: ships[n].shape for n in ships.files}


@pytest.mark.parametrize(
    "spec", [SpectrogramSpec(n_mels=64), SpectrogramSpec(hop_length=4096, n_fft=4096)]
)
def test_another_grid_is_refused_with_one_line(
    tmp_path: Path, spec: SpectrogramSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_pictures(tmp_path / "pictures", tracks=10, frames=200, spec=spec)
    assert main(["--data", str(data), "--out", str(tmp_path / "out.npz")]) == 2
    assert "must have 128 bands" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_audio_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_songs(tmp_path / "songs")
    assert main(["--data", str(data), "--out", str(tmp_path / "out.npz")]) == 2
    assert "make them with genre-train prepare" in capsys.readouterr().err
