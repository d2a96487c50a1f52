"""genre-export: the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from export.errors import check_utf8
from export.inspection import describe
from export.source import read_source
from streamer.core.model import Classifier, ModelError
from streamer.system.commandline import (
    INTERRUPTED,
    ArgumentParser,
    UserError,
    print_line,
    run_program,
)
from streamer.system.files import check_writable

PROGRAM = "genre-export"

EPILOG = """\
genre-export inspect FILE   prints what a model file says about itself

--weights float16 and int8 only store: such files run as fast as float32 ones.
A file made with --quantize is computed with 8-bit integers or in float32; genre-stream measures
which is faster where it runs. With --verify, the table shows what integers change.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return run_program(
        PROGRAM,
        lambda: _run(given),
        user_errors=(ModelError,),
        interrupted=UserError("interrupted, nothing was written", exit_status=INTERRUPTED),
    )


def _run(arguments: list[str]) -> int:
    for argument in arguments:
        check_utf8(argument, "give another name")
    if arguments[:1] == ["inspect"]:
        parser = ArgumentParser(
            prog=f"{PROGRAM} inspect", description="Print what a model file says about itself."
        )
        parser.add_argument("file", type=Path, metavar="FILE", help="the .onnx file")
        file = parser.parse_args(arguments[1:]).file
        print_line(describe(file, Classifier.load(file).contract))
        return 0
    return _export(_export_parser().parse_args(arguments))


def _export_parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Turn a training run into the one file that genre-stream loads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder made by genre-train")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .onnx file")
    parser.add_argument(
        "--weights",
        choices=("float32", "float16", "int8"),
        help="how the weights are stored (default: int8)",
    )
    parser.add_argument(
        "--quantize",
        type=Path,
        action="append",
        metavar="DIR",
        help="make a file that can be computed with 8-bit integers; their ranges are taken from "
        "those of these spectrogram pictures that were trained on; may be repeated",
    )
    parser.add_argument(
        "--verify",
        type=Path,
        metavar="DIR",
        help="spectrogram pictures to compare with Keras on; those that were trained on are left "
        "out",
    )
    parser.add_argument(
        "--min-agreement",
        type=_percentage,
        metavar="PERCENT",
        help="with --verify: write nothing if fewer windows keep their top genre (default: 99, "
        "with --quantize 97)",
    )
    parser.add_argument("--name", help="what the model is called (default: the run's name)")
    parser.add_argument("--dataset", help="what it was trained on (default: its folder's name)")
    parser.add_argument(
        "--model-version", default="1", metavar="TEXT", help="its version (default: 1)"
    )
    return parser


def _percentage(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 100:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")


def _export(options: argparse.Namespace) -> int:
    if options.quantize and options.weights:
        raise UserError("--quantize stores int8 weights: leave --weights out")
    source = read_source(options.run, options.name, options.model_version, options.dataset)
    try:
        check_writable(options.out)
    except UserError as error:
        raise UserError(f"--out {error}") from None
    # Importing TensorFlow takes seconds, so everything that can be refused without it comes first.
    try:
        from export.exporter import ExportSettings, export
    except ImportError as error:
        raise UserError(
            f"{error.name or error} is not installed: pip install 'genre-stream[export]'"
        ) from None
    settings = ExportSettings(
        source=source,
        out=options.out,
        precision="static" if options.quantize else options.weights or "int8",
        quantize=tuple(options.quantize or ()),
        verify=options.verify,
        min_agreement=None if options.min_agreement is None else options.min_agreement / 100,
    )
    export(settings, print_line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
