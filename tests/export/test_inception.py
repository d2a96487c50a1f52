"""Export of InceptionV3, the architecture that is shipped, on real music."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import support.run
from PIL import Image

from export.exporter import ExportSettings, export
from export.pictures import read_windows
from export.source import read_source
from streamer.core.model import Classifier

TRACKS = 10
"""Tracks of each genre that the head is fitted to. Agreement is measured on them too, where the
network is as confident as a trained one."""


def copy_windows(source: Path, target: Path) -> Path:
    """Copy the first 65 columns of some pictures of each genre."""
    target.mkdir()
    (target / "spectrogram.json").write_bytes((source / "spectrogram.json").read_bytes())
    for genre in support.run.LABELS:
        (target / genre).mkdir()
        for path in sorted((source / genre).glob("*.png"))[:TRACKS]:
            with Image.open(path) as picture:
                picture.crop((0, 0, 65, 128)).save(target / genre / path.name)
    return target


@pytest.mark.shared
def test_exported_inception_agrees_with_keras_on_a_hundred_pictures(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = shared / "gtzan" / "spectrograms"
    windows = copy_windows(pictures, tmp_path / "windows")
    anything = support.run.write_run(tmp_path / "anything", support.run.tiny_network())
    tracks = read_windows(windows, read_source(anything).contract)
    network = support.run.inception_network(
        shared / "inception_v3" / "inception_v3_notop.weights.h5",
        np.concatenate([track.spectrograms for track in tracks]),
        [track.genre for track in tracks],
    )
    run = support.run.write_run(tmp_path / "run", network)

    lines: list[str] = []
    out = tmp_path / "model.onnx"
    export(ExportSettings(read_source(run), out, verify=windows), lines.append)
    with capsys.disabled():
        print("", *lines, sep="\n")

    (table,) = (line for line in lines if line.startswith("weights "))
    _, float32, int8 = (line.split() for line in table.splitlines())
    assert (float32[0], int8[0]) == ("float32", "int8")
    agreement, largest, accuracy = (
        [float(row[column].rstrip("%")) for row in (float32, int8)] for column in (5, 6, 8)
    )
    assert agreement[0] == 100
    assert agreement[1] >= 99
    assert largest[0] < 1e-4
    assert min(accuracy) >= 99
    assert out.stat().st_size < 25e6
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    assert peak < 5, f"{peak:.1f} GiB at the highest"
    assert json.loads((run / "run.json").read_text())["labels"] == list(
        Classifier.load(out).contract.labels
    )
