"""Options that several commands share, and the types of option values."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from streamer.system.commandline import UserError
from trainer.fit_settings import MAX_SEED, Group
from trainer.tags import TAGGERS

Command = tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str]
"""Function that runs a command and returns the exit status, function that adds its options, and
help."""


GROUP = ("coordinator", "processes", "process")
"""Options of a training on several machines."""


def number(
    kind: type[int] | type[float], least: float, most: float = math.inf
) -> Callable[[str], float]:
    """Return an argparse type for numbers from `least` to `most`."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value >= least:  # also refuses NaN
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {text}")
        return value

    # argparse shows the function's name in "invalid ... value".
    parse.__name__ = {int: "whole number", float: "number"}[kind]
    return parse


def share(text: str) -> float:
    """Parse a share above 0 and at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and at most 1, not {text}")
    return value


share.__name__ = "number"


def label_name(text: str) -> tuple[str, str | bool]:
    """Parse ``LABEL=NAME``; False stands for the name ``false``."""
    label, equals, name = text.partition("=")
    if not (label and equals and name):
        raise argparse.ArgumentTypeError(f"must be LABEL=NAME, such as rock=guitar, not {text!r}")
    return label, False if name == "false" else name


def add_seed(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--seed`, 0 by default."""
    parser.add_argument("--seed", type=number(int, 0, MAX_SEED), default=0, help=f"{text} (0)")


def add_grid(parser: argparse.ArgumentParser) -> None:
    """Add the options of the spectrograms that are made of audio."""
    grid = parser.add_argument_group("spectrogram, where the data is audio")
    for option, kind, text in (
        ("--hop-ms", number(float, 1, 1000), "time between two columns (77.6)"),
        ("--n-fft", number(int, 2, 2**18), "length of the Fourier transform (2048)"),
        ("--mels", number(int, 1, 2048), "mel bands (128)"),
        ("--workers", number(int, 1, 1024), "processes that read audio (one a core)"),
    ):
        grid.add_argument(option, type=kind, help=text)


def add_group(parser: argparse.ArgumentParser) -> None:
    """Add the options of a training on several machines."""
    group = parser.add_argument_group(
        "several machines, which all run the same command with --devices all"
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where all of them reach process 0: its machine, and a port that is free there",
    )
    group.add_argument(
        "--processes", type=number(int, 2, 4096), metavar="N", help="how many they are"
    )
    group.add_argument(
        "--process",
        type=number(int, 0, 4095),
        metavar="I",
        help="which of them this is, from 0 up; 0 writes the run",
    )


def read_group(given: argparse.Namespace) -> Group | None:
    """Return the group that the options of `add_group` name; None if they name none."""
    coordinator, processes, process = values = [getattr(given, name) for name in GROUP]
    if values == [None, None, None]:
        return None
    if missing := [f"--{name}" for name in GROUP if getattr(given, name) is None]:
        raise UserError(
            f"{' and '.join(missing)} missing: several machines need --coordinator HOST:PORT, "
            "--processes N and --process I"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator {coordinator}: should be HOST:PORT")
    if process >= processes:
        raise UserError(
            f"--process {process}: {processes} processes have the numbers 0 to {processes - 1}"
        )
    if given.resume is None and given.out is None:
        raise UserError("--out is missing: on several machines a run needs one name")
    return Group(coordinator, processes, process)


def add_tagger(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--tagger`; `text` is its help."""
    parser.add_argument("--tagger", choices=TAGGERS, help=text)


def add_split(parser: argparse.ArgumentParser, before: str = "") -> None:
    """Add `--split`; `before` starts its help."""
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help=f"{before}fault-filtered (default for GTZAN), stratified (default else), shares such "
        "as 70/15/15, a CSV of track,artist, or three files with the names of the train, valid and "
        "test tracks",
    )


def add_evaluation(parser: argparse.ArgumentParser) -> None:
    """Add what every evaluation takes: the run or model, the data and the folder of results."""
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder or .onnx file")
    parser.add_argument("--model", type=Path, metavar="FILE.onnx", help="the same as RUN")
    parser.add_argument(
        "--data", type=Path, help="audio or pictures (default: what the run was trained on)"
    )
    parser.add_argument("--background", type=Path, metavar="DIR", help="sounds that are not music")
    add_split(
        parser, "for an .onnx file (a run is judged on its own lists): all for everything in DATA, "
    )
    add_seed(parser, "of everything left to chance")
    parser.add_argument(
        "--out",
        type=Path,
        help="where results go (default: RUN/evaluation; for NAME.onnx NAME-evaluation)",
    )
