"""genre-train fit, fuse, average, and all steps in one."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.system.commandline import UserError, print_line
from trainer.augment import NONE, Augmentation
from trainer.commands import evaluation, options
from trainer.commands.output import data_folder, import_keras, print_skipped
from trainer.commands.preparation import prepare_folder, spec_of
from trainer.fit_settings import (
    DEVICES,
    KEPT_EPOCHS,
    NUMBERS,
    PRECISIONS,
    TRAINED_LISTS,
    FitSettings,
    Group,
)
from trainer.run import read_run
from trainer.splits import sounds_to_learn_from
from trainer.tracks import DatasetError, Track, is_picture_folder

if TYPE_CHECKING:
    from trainer.fuse import Fused


def _add_fit_options(
    parser: argparse.ArgumentParser, kinds: str = "pictures (audio: prepare it first)"
) -> None:
    """Add the options of a training; `kinds` says in the help what the folders may hold.

    Options that are not given are None, an empty list or False: see `_refuse_options_of_resumed`.
    """
    parser.add_argument("--data", type=Path, help=f"{kinds}, one folder a genre")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run")
    options.add_split(parser)
    parser.add_argument(
        "--exclude-faults", action="store_true", help="drop GTZAN's 70 known faulty tracks"
    )
    parser.add_argument(
        "--background",
        type=Path,
        metavar="DIR",
        help=f"sounds that are not music, as {kinds}; they become the label not_music",
    )
    parser.add_argument(
        "--weights",
        help="where to start: imagenet (default), gtzan (the network that ships with "
        "genre-stream: best for a small set), none, an .onnx file of genre-export, the folder of "
        "an earlier run, or the path of InceptionV3 notop weights",
    )
    for field in NUMBERS:
        default: Any = field.default
        limits = field.metadata
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=options.number(type(default), limits["least"], limits["most"]),
            metavar="SEED" if field.name == "seed" else "N",
            help=f"{limits['help']} ({default:g})",
        )
    parser.add_argument(
        "--keep",
        choices=KEPT_EPOCHS,
        help="the epoch whose averaged weights are kept: the best by validation (default), or the "
        "last",
    )
    parser.add_argument(
        "--train-on",
        choices=TRAINED_LISTS,
        help="lists to train on (train); train+valid, with --keep last, is for a final model whose "
        "recipe was judged before",
    )
    options.add_tagger(parser, "the second network, fitted where there are tags (musicnn), or none")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the computation (float32); mixed ones are for accelerators",
    )
    parser.add_argument(
        "--devices",
        choices=DEVICES,
        help="one (default), or all accelerators, each with a part of every batch; all needs "
        "KERAS_BACKEND=jax (extra jax)",
    )
    parser.add_argument(
        "--augment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="strength of one kind of variation, or none for no variation; may be repeated "
        f"({', '.join(default_strengths())})",
    )
    parser.add_argument(
        "--freeze-batch-norms",
        action="store_true",
        help="train all but the batch norms, whose statistics stay: cheaper steps",
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs")


def default_strengths() -> list[str]:
    """Return the defaults of all augmentations as `--augment` takes them."""
    return [
        f"{name}={','.join(f'{part:g}' for part in np.atleast_1d(value))}"
        for name, value in dataclasses.asdict(Augmentation()).items()
    ]


def _add_group_and_fit_options(parser: argparse.ArgumentParser) -> None:
    _add_fit_options(parser)
    options.add_group(parser)


def _run_fit(given: argparse.Namespace) -> int:
    _refuse_options_of_resumed(given)
    group = options.read_group(given)
    if given.data is not None:
        given.data = data_folder(given.data)
    for option in ("data", "background"):
        folder = getattr(given, option)
        if folder is not None and folder.is_dir() and not is_picture_folder(folder):
            raise UserError(
                f"--{option} {folder} holds no spectrogram.json: fit needs pictures; make them "
                "with genre-train prepare, or leave out the word fit to do both"
            )
    if given.resume is None:
        if given.data is None:
            raise UserError("--data is missing: give a folder of pictures, or --resume RUN")
        _print_skipped_pictures(given.data, background=False)
        if given.background:
            _print_skipped_pictures(given.background, background=True)
    run = _fit(given, group)
    if not group or group.process == 0:
        print_line(f"next: genre-train evaluate {shlex.quote(str(run))}")
    return 0


def _print_skipped_pictures(folder: Path, *, background: bool) -> None:
    from trainer.discovery import find_background, find_tracks

    print_skipped((find_background if background else find_tracks)(folder)[1])


def _refuse_options_of_resumed(given: argparse.Namespace) -> None:
    """Refuse options beside `--resume`, which continues with the run's own settings."""
    names = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(given).items()
        if name not in ("command", "resume", *options.GROUP)
        and value not in (None, [])
        and value is not False
    ]
    if given.resume is not None and names:
        raise UserError(
            f"--resume {given.resume} goes on with the run's own settings: leave out "
            f"{', '.join(names)}, or start another run with --weights {given.resume}"
        )


def _fit(given: argparse.Namespace, group: Group | None = None) -> Path:
    import_keras()
    from trainer.fit.loop import fit, resume

    if given.resume is not None:
        run = resume(given.resume, group)
    else:
        run = fit(_fit_settings(given), group)
    return run if group and group.process else _with_second_network(run)


def _fit_settings(given: argparse.Namespace) -> FitSettings:
    given.out = given.out or Path("runs") / time.strftime("%Y%m%d-%H%M%S")
    names = {field.name for field in dataclasses.fields(FitSettings)}
    fields = {
        name: value for name, value in vars(given).items() if name in names and value is not None
    }
    # Absolute paths, so that the run can be evaluated from any working directory.
    fields |= {
        "data": given.data.resolve(),
        "out": given.out,
        "background": given.background and given.background.resolve(),
        "split": tuple(given.split),
        "augmentation": parse_augmentation(given.augment),
    }
    return FitSettings(**fields)


def _with_second_network(folder: Path) -> Path:
    """Fit the second network of a run if there are tags, and return the run's folder."""
    from trainer.fuse import fuse, has_tags

    run = read_run(folder)
    if run.settings.tagger == "none":
        return folder
    if not has_tags(run):
        print_line("note: one network alone, since no train track has tags (genre-train prepare)")
    elif run.settings.train_on != "train":
        print_line(f"note: add the second network with genre-train fuse {folder} --like RUN")
    else:
        try:
            _print_fused(folder, fuse(folder))
        except DatasetError as error:
            print_line(f"note: one network alone: {error}")
    return folder


def _print_fused(folder: Path, fused: Fused) -> None:
    fusion = fused.fusion
    found = f"found on {fused.windows} windows" if fused.windows else "of the other run"
    print_line(
        f"{folder}: head on the tags of {fused.tracks} tracks ({fused.degraded} degraded as well) "
        f"and {fused.sounds} sounds; weights {fusion.spectrogram_weight:g} and "
        f"{fusion.audio_weight:g}, temperature {fused.temperature:.3f}, {found}"
    )


def _add_fuse_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--data", type=Path, help="pictures with tags, or audio (those of the run)")
    parser.add_argument(
        "--background", type=Path, metavar="DIR", help="sounds that are not music, likewise"
    )
    parser.add_argument(
        "--audio-seconds",
        type=options.number(float, 3, 60),
        help="sound that the second network hears before a decision (a window, at most 5)",
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="RUN",
        help="take weights, temperature and decision settings of this run, for one that was "
        "trained on its valid list",
    )


def _run_fuse(given: argparse.Namespace) -> int:
    import_keras()
    from trainer.fuse import fuse

    fused = fuse(
        given.run,
        data=given.data,
        background=given.background,
        like=given.like,
        seconds=given.audio_seconds,
    )
    _print_fused(given.run, fused)
    return 0


def parse_augmentation(changes: Sequence[str]) -> Augmentation:
    """Return the default strengths with the changes of `--augment`, in their order."""
    strength = Augmentation()
    defaults = dataclasses.asdict(strength)
    for change in changes:
        if change == "none":
            strength = NONE
            continue
        name, _, text = change.partition("=")
        if name not in defaults or not text:
            raise UserError(
                f"--augment {change}: give none or NAME=VALUE with one of {', '.join(defaults)}"
            )
        value = _strength(change, text, defaults[name])
        try:
            strength = dataclasses.replace(strength, **{name: value})
        except ValueError as error:
            raise UserError(f"--augment {change}: {error}") from None
    return strength


def _strength(change: str, text: str, default: Any) -> Any:
    """Parse a value of the type of its default."""
    try:
        if not isinstance(default, tuple):
            return type(default)(text)
        value = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--augment {change}: {text} is no number such as {default}") from None
    if len(value) != len(default):
        raise UserError(f"--augment {change}: give {len(default)} numbers with a comma between")
    return value


def _add_average_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="runs that go back to the same one; one that is named twice counts twice",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")


def _run_average(given: argparse.Namespace) -> int:
    import_keras()
    from trainer.average import average

    print_line(f"average of {len(given.runs)} runs: {average(given.runs, given.out)}")
    return 0


def _add_all_options(parser: argparse.ArgumentParser) -> None:
    _add_fit_options(parser, kinds="audio or pictures")
    options.add_grid(parser)
    parser.add_argument(
        "--pictures", type=Path, help="where the pictures of audio go (in the user's cache)"
    )


def _run_all(given: argparse.Namespace) -> int:
    _refuse_options_of_resumed(given)
    if given.resume is None:
        if given.data is None:
            raise UserError(
                "--data is missing: give a folder with one folder a genre, or --resume RUN"
            )
        spec_of(given)
        given.data = data_folder(given.data)
        if is_picture_folder(given.data) and (given.hop_ms or given.n_fft or given.mels):
            raise UserError(
                f"--hop-ms, --n-fft and --mels need audio and {given.data} holds pictures"
            )
        _check_before_pictures(given)
        sounds, background = [], given.background
        if background and not is_picture_folder(background):
            sounds = sounds_to_learn_from(background)
        given.data = _pictures(given.data, given.pictures, given, background=False, sounds=sounds)
        if background:
            given.background = _pictures(background, None, given, background=True)
    given.run = _fit(given)
    evaluation.evaluate_run(given.run)
    evaluation.run_report(given)
    print_line(f"next: genre-export {shlex.quote(str(given.run))} --out model.onnx")
    return 0


def _check_before_pictures(given: argparse.Namespace) -> None:
    """Raise a UserError for what would be found out only after a long preparation."""
    from trainer.fit.start import check_audio, check_start

    settings = _fit_settings(given)
    check_audio(settings)
    check_start(settings)


def _pictures(
    data: Path,
    out: Path | None,
    given: argparse.Namespace,
    *,
    background: bool,
    sounds: Sequence[Track] = (),
) -> Path:
    """Return the folder of the pictures of a data folder, which may be that folder itself."""
    if not is_picture_folder(data):
        return prepare_folder(data, out, given, background=background, sounds=sounds)
    _print_skipped_pictures(data, background=background)
    return data


COMMANDS: dict[str, options.Command] = {
    "all": (_run_all, _add_all_options, "prepare, fit, evaluate and report (the default)"),
    "fit": (_run_fit, _add_group_and_fit_options, "train on pictures"),
    "fuse": (_run_fuse, _add_fuse_options, "fit the second network of a run"),
    "average": (
        _run_average,
        _add_average_options,
        "average the weights of runs that started from the same one",
    ),
}
