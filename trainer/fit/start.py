"""What can be found wrong with a training before any work is done for it; needs no Keras."""

from __future__ import annotations

from pathlib import Path

from trainer.discovery import find_tracks
from trainer.fit.data import divide
from trainer.fit_settings import NAMED_WEIGHTS, FitSettings
from trainer.run import RUN_FILE, RunError
from trainer.tracks import is_picture_folder


def check_start(settings: FitSettings) -> None:
    """Check the settings of a new training and make its run folder.

    Raises
    ------
    RunError
        If the settings contradict each other, the initial weights do not exist, or the folder
        already holds a run or cannot be written.
    """
    if problem := settings.problem():
        raise RunError(problem)
    if settings.weights not in NAMED_WEIGHTS and not Path(settings.weights).exists():
        raise RunError(
            f"--weights {settings.weights}: no such file; give {', '.join(NAMED_WEIGHTS)}, an "
            ".onnx file of genre-export, the folder of an earlier run, or InceptionV3 notop weights"
        )
    if (settings.out / RUN_FILE).exists():
        raise RunError(
            f"--out {settings.out}: already holds a run; continue it with --resume or choose "
            "another folder"
        )
    try:
        (settings.out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = settings.out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"--out {settings.out}: cannot be written ({error.strerror}); choose another folder"
        ) from error


def check_audio(settings: FitSettings) -> None:
    """Check that the audio in `settings.data` could be divided, if every file can be decoded.

    Raises
    ------
    DatasetError, RunError
        As `trainer.fit.data.load_data`, which would find it only after the pictures are made.
    """
    if not is_picture_folder(settings.data):
        divide(settings, *find_tracks(settings.data), sounds=[])
