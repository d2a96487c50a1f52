"""Adding tags to pictures without them, from audio and from published tags."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.model import band_noise
from support.songs import write_audio, write_songs

from streamer.core.spectrogram import SpectrogramSpec
from trainer.cli import main
from trainer.prepare import prepare
from trainer.tag_pictures import TagSources, tag_pictures
from trainer.tags import read_tags, tags_file
from trainer.tracks import DatasetError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures without tags; the audio is in `songs` beside them."""
    songs = write_songs(tmp_path / "songs", tracks=2)
    return prepare(songs, tmp_path / "pictures", SpectrogramSpec(), tags=False).folder


def published(path: Path, *names: str) -> Path:
    np.savez(path, **{name: np.full((4, 50), 0.25, np.float32) for name in names})
    return path


def test_audio_goes_before_published_tags(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "songs" / "low" / "low.00001.wav").unlink()
    file = published(tmp_path / "tags.npz", "low.00000", "low.00001", "unknown")
    out = tmp_path / "copy"
    done = tag_pictures(pictures, out, TagSources([tmp_path / "songs"], file))
    assert (done.from_audio, done.published, done.degraded, done.without) == (5, 1, 5, 0)
    assert (read_tags(out / "low" / "low.00001.tags.npy") == 0.25).all()
    assert (read_tags(out / "low" / "low.00000.tags.npy") != 0.25).all()
    assert (out / "spectrogram.json").read_text() == (pictures / "spectrogram.json").read_text()
    for picture in pictures.glob("*/*.png"):
        copy = out / picture.relative_to(pictures)
        assert copy.read_bytes() == picture.read_bytes()
    assert not list(pictures.glob("*/*.npy"))


def test_a_part_of_a_track_teaches_the_head_alone(tmp_path: Path, pictures: Path) -> None:
    write_audio(tmp_path / "clips" / "low" / "low.00000.wav", band_noise("low", 2))
    write_audio(tmp_path / "clips" / "low" / "low.00001.wav", band_noise("low", 0.5))
    done = tag_pictures(
        pictures,
        pictures,
        TagSources([tmp_path / "clips"], published(tmp_path / "tags.npz", "low.00001"), copies=5),
    )
    assert (done.from_audio, done.published, done.degraded, done.without) == (0, 1, 1, 5)
    assert [entry.reason for entry in done.skipped] == ["too short: 0.5 s, at least 1 s needed"]
    assert read_tags(pictures / "low" / "low.00000.degraded.npy").shape == (5, 50)
    assert not tags_file(pictures / "low" / "low.00000.png").exists()


def test_some_degraded_copies_are_heard_with_recorded_sounds(
    tmp_path: Path, pictures: Path
) -> None:
    for number in range(5):
        write_audio(tmp_path / "sounds" / f"{number}.wav", band_noise("high", 3, seed=number))
    options = ["--data", str(pictures), "--audio", str(tmp_path / "songs"), "--copies", "9"]
    assert main(["tags", *options, "--out", str(tmp_path / "without")]) == 0
    with_sounds = ["--background", str(tmp_path / "sounds"), "--out", str(tmp_path / "with")]
    assert main(["tags", *options, *with_sounds]) == 0
    name = "low/low.00000"
    without, heard = (
        read_tags(tmp_path / out / f"{name}.degraded.npy") for out in ("without", "with")
    )
    assert without.shape == heard.shape
    assert np.abs(without - heard).max() > 0.01
    assert np.array_equal(
        *(read_tags(tmp_path / out / f"{name}.tags.npy") for out in ("without", "with"))
    )


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        (np.zeros((3, 40), np.float32), "must hold floating point of shape (pieces, 50), not"),
        (np.full((3, 50), 1.5, np.float32), "holds values that are no probabilities, 0 to 1"),
    ],
)
def test_published_tags_of_another_kind_are_refused(
    tmp_path: Path, pictures: Path, tags: np.ndarray, reason: str
) -> None:
    np.savez(tmp_path / "tags.npz", **{"low.00000": tags})
    with pytest.raises(DatasetError, match=r"low\.00000: ") as error:
        tag_pictures(pictures, pictures, TagSources(published=tmp_path / "tags.npz"))
    assert reason in str(error.value)


def test_wrong_sources_of_tags_end_in_one_line(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    for options, reason in (
        ([], "nothing to take tags from: give --audio or --published"),
        (["--published", tmp_path / "text.npz"], "text.npz: not an .npz file"),
        (["--audio", pictures], "holds pictures; give a folder of audio"),
        (
            ["--audio", tmp_path / "songs", "--background", pictures],
            f"--background {pictures} holds pictures; give a folder of audio",
        ),
        (
            ["--audio", tmp_path / "songs", "--background", tmp_path / "none"],
            f"no such background folder: {tmp_path / 'none'}",
        ),
        (["--published", published(tmp_path / "x.npz", "x")], "is in --audio or --published"),
    ):
        assert main(["tags", "--data", str(pictures), *map(str, options)]) == 2
        error = capsys.readouterr().err
        assert reason in error.splitlines()[-1]
        assert "Traceback" not in error
