"""genre-export: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from export.errors import ExportError, UsageError, check_utf8
from export.inspection import describe
from export.model_file import check_writable
from export.source import read_run
from streamer.core.model import Classifier, ModelError
from streamer.system.console import discard_standard_output

PROGRAM = "genre-export"

EPILOG = """\
genre-export inspect FILE   prints what a model file says about itself

--weights float16 and int8 only store: such files run as fast as float32 ones.
--quantize static computes with integers, which is faster on some processors only: compare the
milliseconds in the table.
"""


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage as one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 wrong usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        for argument in given:
            check_utf8(argument, "give another name")
        if given[:1] == ["inspect"]:
            return _inspect(_inspect_parser().parse_args(given[1:]))
        return _export(_export_parser().parse_args(given))
    except (ExportError, ModelError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.status if isinstance(error, ExportError) else UsageError.status
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted, nothing was written", file=sys.stderr)
        return 130


def _inspect_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"{PROGRAM} inspect", description="Print what a model file says about itself."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the .onnx file")
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
        "--quantize", choices=("static",), help="compute with 8-bit integers; needs --calibrate"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="DIR", help="spectrogram pictures to take ranges from"
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
        default=99.0,
        metavar="PERCENT",
        help="with --verify: write nothing if fewer windows keep their top genre (default: 99)",
    )
    parser.add_argument("--name", help="what the model is called (default: the run's name)")
    parser.add_argument("--dataset", help="what it was trained on (default: its folder's name)")
    parser.add_argument(
        "--model-version", default="1", metavar="TEXT", help="its version (default: 1)"
    )
    return parser


def _percentage(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return value


def _inspect(options: argparse.Namespace) -> int:
    contract = Classifier.load(options.file).contract
    _say(describe(options.file, contract))
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.quantize and options.weights:
        raise UsageError("--quantize static stores int8 weights: leave --weights out")
    if bool(options.quantize) != bool(options.calibrate):
        raise UsageError("--quantize static and --calibrate DIR are only of use together")
    run = read_run(options.run, options.name, options.model_version, options.dataset)
    check_writable(options.out)
    # TensorFlow takes seconds to import: only now that nothing can be refused without it.
    try:
        from export.exporter import Order, export
    except ImportError as error:
        raise UsageError(
            f"{error.name or error} is not installed: pip install 'genre-stream[export]'"
        ) from None
    order = Order(
        run=run,
        out=options.out,
        precision=options.quantize or options.weights or "int8",
        calibrate=options.calibrate,
        verify=options.verify,
        min_agreement=options.min_agreement / 100,
    )
    export(order, _say)
    return 0


def _say(line: str) -> None:
    """Print a line at once; a reader who has gone does not stop the work."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        discard_standard_output()
        raise ExportError(f"standard output cannot be written ({error.strerror})") from None


if __name__ == "__main__":
    sys.exit(main())
