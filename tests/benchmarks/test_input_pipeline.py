"""How long a training step waits for its windows."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.pictures import write_pictures

from streamer.core.spectrogram import SpectrogramSpec


@pytest.mark.benchmark
def test_an_epoch_spends_over_90_percent_of_its_time_in_training_steps(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    data = write_pictures(tmp_path / "data", tracks=12, frames=387, spec=SpectrogramSpec())
    # A frozen backbone makes the shortest step, which is the hardest case for the windows.
    command = [sys.executable, "-m", "trainer.cli", "fit", "--data", str(data), "--split"]
    command += ["stratified", "--weights", "none", "--epochs", "0", "--head-epochs", "2"]
    subprocess.run([*command, "--out", str(tmp_path / "run")], check=True, env=os.environ.copy())
    with (tmp_path / "run" / "history.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    share = float(last["step_seconds"]) / float(last["seconds"])
    measured(f"training step: {share:.1%} of an epoch's time")
    assert share > 0.9
