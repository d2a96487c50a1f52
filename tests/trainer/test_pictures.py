"""Reading and writing spectrogram pictures and their specification."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from streamer.core.spectrogram import SpectrogramSpec
from trainer.pictures import read_picture, read_spec, write_picture
from trainer.tracks import DatasetError

SPEC = SpectrogramSpec()


def test_a_picture_has_the_highest_band_on_top_and_is_read_lowest_first(
    tmp_path: Path,
) -> None:
    levels = np.arange(128, dtype=np.uint8)[:, None] * np.ones((1, 50), np.uint8)
    write_picture(tmp_path / "a.png", levels)
    with Image.open(tmp_path / "a.png") as picture:
        assert (picture.mode, picture.size) == ("L", (50, 128))
        assert picture.getpixel((0, 0)) == 127
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), levels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_postscript_in_a_png_file_is_not_run_by_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/it-ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "a.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 128\n%%EndComments\nshowpage\n"
        '%ImageData: 100 128 8 1 0 1 1 "x"\n%%EOF\n'
    )
    with pytest.raises(DatasetError, match="damaged picture"):
        read_picture(tmp_path / "a.png")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "damaged picture"), (b"\x89PNG\r\n\x1a\nnonsense", "damaged picture")],
)
def test_a_file_that_is_not_a_picture_is_damaged(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match=reason):
        read_picture(tmp_path / "a.png")


def test_a_coloured_picture_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (50, 128)).save(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="not an 8-bit grey picture but mode RGB"):
        read_picture(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_a_picture_of_hours_on_a_fine_grid_is_read(tmp_path: Path) -> None:
    Image.new("L", (1_400_000, 128), 7).save(tmp_path / "a.png", compress_level=1)
    assert read_picture(tmp_path / "a.png").shape == (128, 1_400_000)


def test_a_header_with_an_enormous_size_is_refused(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", np.zeros((128, 50), np.uint8))
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[16:24] = struct.pack(">II", 2**30, 2**20)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DatasetError, match="too large: 1073741824 x 1048576 cells"):
        read_picture(tmp_path / "a.png")


def test_a_picture_that_cannot_be_written_leaves_no_partial_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match=r"a\.png: cannot be written \(Is a directory\)"):
        write_picture(tmp_path / "a.png", np.zeros((128, 80), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_unusable_spec_is_refused_with_its_field(tmp_path: Path) -> None:
    fields = SPEC.to_dict() | {"n_mels": 0}
    (tmp_path / "spectrogram.json").write_text(json.dumps(fields))
    with pytest.raises(DatasetError, match="n_mels must be a positive integer, not 0"):
        read_spec(tmp_path)
    (tmp_path / "spectrogram.json").write_text("{")
    with pytest.raises(DatasetError, match=r"cannot use .*spectrogram\.json"):
        read_spec(tmp_path)
