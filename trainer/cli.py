"""genre-train: the command line of the trainer."""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from streamer.core.model import Classifier
    from streamer.core.spectrogram import SpectrogramSpec
    from trainer.evaluation_sets import EvaluationSets
    from trainer.tracks import Skipped

PROGRAM = "genre-train"

FIT_OPTIONS = (
    ("--epochs", int, 0, 100_000, "passes over the training tracks with the whole network (40)"),
    ("--head-epochs", int, 0, 100_000, "passes before them in which only the new layer learns (1)"),
    ("--batch", int, 1, 4096, "windows in a step (16)"),
    (
        "--input-scale",
        float,
        0.1,
        20,
        "factor on both axes of the spectrogram before InceptionV3 (2)",
    ),
    ("--window-seconds", float, 1, 300, "length of a window (5)"),
    ("--windows-per-song", int, 1, 1000, "windows of each track in an epoch (2)"),
    ("--background-share", float, 0, 1, "share of an epoch's windows that are no music (0.1)"),
    ("--learning-rate", float, 0, 10, "highest rate of the whole network (0.0003)"),
    (
        "--head-learning-rate",
        float,
        0,
        10,
        "rate of the new layer while the rest is frozen (0.001)",
    ),
    ("--weight-decay", float, 0, 10, "AdamW's decoupled decay (0.05)"),
    ("--label-smoothing", float, 0, 0.99, "share of the target spread over all labels (0.1)"),
    ("--dropout", float, 0, 0.99, "share of features dropped in training (0.5)"),
    ("--averaging", float, 0, 0.999999, "momentum of the averaged weights that are kept (0.99)"),
    (
        "--patience",
        int,
        0,
        100_000,
        "epochs without a better validation before it stops; at 0 it never does (0)",
    ),
)
"""Options that carry the name of a field of `FitSettings`: name, type, least and highest value, and
help with the default that stands there."""

AUGMENTATIONS = (
    "stretch=0.08",
    "band_shift=3",
    "equaliser_db=5",
    "band_limit=0.2",
    "reverberation=0.2",
    "noise=0.25",
    "noise_snr_db=0,30",
    "level_db=20",
    "masks=2",
    "mask_frames=0.15",
    "mask_bands=16",
    "mixup=0.3",
    "change=0",
)
"""The fields of `Augmentation` with their defaults. They are written down here, as those above are,
because a `--help` is not to wait for TensorFlow."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{PROGRAM}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return 0 done, 1 failed while running, 2 wrong usage or data."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in {*COMMANDS, "-h", "--help", "--version"}:
        arguments.insert(0, "all")
    options, unknown = _parser().parse_known_args(arguments)
    if unknown:  # argparse would name the help that lists no options
        _Parser(prog=f"{PROGRAM} {arguments[0]}").error(
            f"unrecognized arguments: {' '.join(unknown)}"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        # As standard error has it: no name of a track is worth stopping for.
        sys.stdout.reconfigure(errors="backslashreplace")
    # TensorFlow prints a page about its build on import unless told before.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; what is done is kept", file=sys.stderr)
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"{PROGRAM}: {error.strerror or error}{where}", file=sys.stderr)
        return 1
    except MemoryError as error:
        print(f"{PROGRAM}: not enough memory ({error or 'none left'})", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(
            f"{PROGRAM}: {error.name} is not installed; pip install 'genre-stream[train]'",
            file=sys.stderr,
        )
        return 2
    except Exception as error:
        if type(error).__name__ not in USAGE_ERRORS:
            raise
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 2


USAGE_ERRORS = frozenset(
    {
        "DatasetError",
        "DecisionSettingsError",
        "ModelError",
        "NetworkError",
        "RunError",
        "SpecError",
    }
)
"""Errors whose message is one sentence for the user. By name: to import them all would load
TensorFlow for a `--help`."""


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM,
        description="Train, evaluate and report on a genre classifier. Without a command it does "
        "everything: prepare, fit, evaluate and report.",
        epilog="Exit status: 0 done, 1 failed while running, 2 wrong usage or data.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (run, add_options, text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.HelpFormatter
        )
        add_options(command)
        command.set_defaults(command=run)
    return parser


def _version() -> str:
    from importlib import metadata

    return f"{PROGRAM} {metadata.version('genre-stream')}"


def _number(
    kind: type[int] | type[float], least: float, most: float = math.inf
) -> Callable[[str], float]:
    """Return a parser of numbers from `least` to `most`."""

    def number(text: str) -> float:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, not {text}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {text}")
        return value

    # argparse names the function when it says what is invalid.
    number.__name__ = {int: "whole number", float: "number"}[kind]
    return number


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be a share above 0 and at most 1, not {text}")
    return value


_share.__name__ = "number"


_seed = _number(int, 0, 2**32 - 1)
"""Parses what every generator of chance here takes."""


def _add_grid_options(parser: argparse.ArgumentParser) -> None:
    grid = parser.add_argument_group("spectrogram, where the data is audio")
    grid.add_argument(
        "--hop-ms", type=_number(float, 1, 1000), help="time between two columns (77.6)"
    )
    grid.add_argument(
        "--n-fft", type=_number(int, 2, 2**18), help="length of the Fourier transform (2048)"
    )
    grid.add_argument("--mels", type=_number(int, 1, 2048), help="mel bands (128)")
    grid.add_argument(
        "--workers", type=_number(int, 1, 1024), help="processes that read audio (one a core)"
    )


def _add_prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="audio, one folder a genre")
    parser.add_argument("--out", type=Path, help="picture folder (default: in the user's cache)")
    parser.add_argument(
        "--sounds",
        action="store_true",
        help="the data are sounds that are not music, in folders nested in any way",
    )
    _add_grid_options(parser)


def _add_speak_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips")
    parser.add_argument(
        "--clips", type=_number(int, 1), default=200, metavar="N", help="how many (200)"
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of words, speeds and pitches (0)",
    )


def _add_fit_options(
    parser: argparse.ArgumentParser, kinds: str = "pictures (audio: prepare it first)"
) -> None:
    parser.add_argument("--data", type=Path, help=f"{kinds}, one folder a genre")
    parser.add_argument("--out", type=Path, help="folder of the run (runs/DATE-TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a stopped run")
    _add_split_option(parser)
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
        help="imagenet (default), none, the path of InceptionV3 notop weights, or the folder of an "
        "earlier run to start from",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        help="decides everything that is left to chance (0)",
    )
    for option, kind, least, most, text in FIT_OPTIONS:
        parser.add_argument(option, type=_number(kind, least, most), metavar="N", help=text)
    parser.add_argument(
        "--keep",
        choices=("best", "last"),
        help="the epoch whose averaged weights are kept: the best by validation (default), or the "
        "last",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "mixed_float16", "mixed_bfloat16"),
        help="of the computation (float32); mixed ones are for accelerators",
    )
    parser.add_argument(
        "--augment",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"strength of one kind of variation, or none for no variation; may be repeated "
        f"({', '.join(AUGMENTATIONS)})",
    )
    parser.add_argument(
        "--freeze-batch-norms",
        action="store_true",
        help="train all but the batch norms, whose statistics stay: cheaper steps",
    )
    parser.add_argument("--tensorboard", action="store_true", help="also write TensorBoard logs")


def _add_average_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="runs that go back to the same one; one that is named twice counts twice",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the new run")


def _add_split_option(parser: argparse.ArgumentParser, before: str = "") -> None:
    parser.add_argument(
        "--split",
        nargs="+",
        default=[],
        metavar="SPLIT",
        help=f"{before}fault-filtered (default for GTZAN), stratified (default else), a CSV of "
        "track,artist, or three files with the names of the train, valid and test tracks",
    )


def _add_all_options(parser: argparse.ArgumentParser) -> None:
    _add_fit_options(parser, kinds="audio or pictures")
    _add_grid_options(parser)
    parser.add_argument(
        "--pictures", type=Path, help="where the pictures of audio go (in the user's cache)"
    )


def _add_judged_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="run folder or .onnx file")
    parser.add_argument("--model", type=Path, metavar="FILE.onnx", help="the same as RUN")
    parser.add_argument(
        "--data", type=Path, help="audio or pictures (default: what the run was trained on)"
    )
    parser.add_argument("--background", type=Path, metavar="DIR", help="sounds that are not music")
    _add_split_option(
        parser, "for an .onnx file (a run is judged on its own lists): all for everything in DATA, "
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of everything left to chance (0)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where results go (default: RUN/evaluation; for NAME.onnx NAME-evaluation)",
    )


def _add_set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        choices=("valid", "test", "all"),
        help="which list (valid; with --split all there is only one, all)",
    )


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    _add_judged_options(parser)
    _add_set_option(parser)
    parser.add_argument("--limit", type=_number(int, 1), metavar="N", help="play only N tracks")
    parser.add_argument(
        "--gap-seconds",
        type=_number(float, 0.1, 600),
        default=4.0,
        help="silence where there is some (4)",
    )
    parser.add_argument(
        "--hop-seconds", type=_number(float, 0.1, 600), default=1.0, help="between decisions (1)"
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="search smoothing and thresholds on the valid list and keep the best in run.json",
    )
    parser.add_argument(
        "--right-of-claimed",
        type=_share,
        metavar="SHARE",
        help="with --tune: claim as much as possible while so many of the claims are right, "
        "such as 0.9",
    )


def _add_robustness_options(parser: argparse.ArgumentParser) -> None:
    _add_judged_options(parser)
    _add_set_option(parser)


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")


def _run_all(options: argparse.Namespace) -> int:
    from trainer.evaluation_sets import find_evaluation_sets
    from trainer.tracks import is_picture_folder

    _check_resume(options)
    if options.resume is None:
        if options.data is None:
            _wrong("--data is missing: give a folder with one folder a genre, or --resume RUN")
        if not is_picture_folder(options.data):
            options.data = _prepare(options.data, options.pictures, options, background=False)
        elif options.hop_ms or options.n_fft or options.mels:
            _wrong(f"--hop-ms, --n-fft and --mels need audio and {options.data} holds pictures")
        else:
            _say_skipped_pictures(options.data, background=False)
        if options.background and not is_picture_folder(options.background):
            options.background = _prepare(options.background, None, options, background=True)
        elif options.background:
            _say_skipped_pictures(options.background, background=True)
    run = _fit_run(options)
    candidate = _load(run)
    _evaluate(candidate, find_evaluation_sets(candidate), run / "evaluation", run, seed=0)
    _write_report(run)
    return 0


def _run_prepare(options: argparse.Namespace) -> int:
    _prepare(options.data, options.out, options, background=options.sounds)
    return 0


def _run_speak(options: argparse.Namespace) -> int:
    from trainer.speech import installed_voices, speak

    voices = installed_voices()
    clips = speak(options.out, options.clips, voices, seed=options.seed)
    _say(f"{len(clips)} clips of {min(len(voices), len(clips))} voices: {options.out}")
    return 0


def _run_fit(options: argparse.Namespace) -> int:
    from trainer.tracks import is_picture_folder

    _check_resume(options)
    for option in ("data", "background"):
        folder = getattr(options, option)
        if folder is not None and folder.is_dir() and not is_picture_folder(folder):
            _wrong(
                f"--{option} {folder} holds no spectrogram.json: fit needs pictures; make them "
                f"with {PROGRAM} prepare, or leave out the word fit to do both"
            )
    if options.resume is None and options.data is None:
        _wrong("--data is missing: give a folder of pictures, or --resume RUN")
    if options.resume is None:
        _say_skipped_pictures(options.data, background=False)
        if options.background:
            _say_skipped_pictures(options.background, background=True)
    _fit_run(options)
    return 0


def _run_average(options: argparse.Namespace) -> int:
    _import_keras()
    from trainer.average import average

    _say(f"average of {len(options.runs)} runs: {average(options.runs, options.out)}")
    return 0


def _run_evaluate(options: argparse.Namespace) -> int:
    path = _judged_path(options)
    candidate = _load(path)
    sets = _sets(candidate, options)
    _say_skipped(sets.skipped)
    own = not (options.data or options.background)
    keep_in = path if own and path.is_dir() else None
    _evaluate(candidate, sets, _results_folder(options, path, own), keep_in, options.seed)
    return 0


def _run_stream_test(options: argparse.Namespace) -> int:
    from trainer.run import update_facts
    from trainer.stream_test import as_text, stream_test, write_stream_test
    from trainer.tuning import tune

    path = _judged_path(options)
    judged = _judged_set(options)
    if options.tune and (not path.is_dir() or judged != "valid"):
        _wrong("--tune needs a run folder, into which it writes, and the valid list")
    if options.right_of_claimed is not None and not options.tune:
        _wrong("--right-of-claimed says what --tune is to look for; add --tune")
    candidate = _load(path)
    sets = _sets(candidate, options)
    test = stream_test(
        candidate,
        sets,
        judged,
        limit=options.limit,
        gap_seconds=options.gap_seconds,
        hop_seconds=options.hop_seconds,
        seed=options.seed,
    )
    _say_skipped([*sets.skipped, *test.stream.skipped])
    _say_notes(sets.notes)
    _say(as_text(test.result, judged, sets.protocol))
    if options.tune:
        test = tune(test, candidate.contract, options.right_of_claimed)
        chosen = ", ".join(f"{name} {value}" for name, value in test.settings.items())
        _say(f"tuned: {chosen}\n{as_text(test.result, judged, sets.protocol)}")
    whole = options.limit is None or options.limit >= len(sets.music[judged])
    own = whole and not (options.data or options.background)
    write_stream_test(test, _results_folder(options, path, own), judged, sets)
    if path.is_dir():
        changes = {"decision": test.settings} if options.tune else {}
        kept = {f"stream_{judged}": dataclasses.asdict(test.result)} if own else {}
        update_facts(path, changes, kept)
    return 0


def _run_robustness(options: argparse.Namespace) -> int:
    from trainer.robustness import as_text, robustness, write_robustness
    from trainer.run import update_facts

    path = _judged_path(options)
    judged = _judged_set(options)
    candidate = _load(path)
    sets = _sets(candidate, options)
    _say_skipped(sets.skipped)
    _say_notes(sets.notes)
    tracks = sets.music.get(judged)
    if not tracks:
        _wrong(f"--set {judged}: none of its tracks is in the data folder")
    # What a run was trained with may be pictures, which nothing can be mixed with.
    sounds = sets.background.get(judged, []) if options.background else []
    results = robustness(candidate, tracks, sounds, seed=options.seed)
    _say(as_text(results, judged, sets.protocol))
    write_robustness(results, _results_folder(options, path), judged, sets.protocol)
    if path.is_dir():
        kept = [dataclasses.asdict(result) for result in results]
        update_facts(path, {}, {f"robustness_{judged}": kept})
    return 0


def _judged_set(options: argparse.Namespace) -> str:
    """Return the list to judge on; `--split all` has one only."""
    everything = options.split == ["all"]
    chosen: str = options.set or ("all" if everything else "valid")
    if everything and chosen != "all":
        _wrong(f"--set {chosen}: --split all is one list of everything; leave out one of the two")
    if chosen == "all" and not everything:
        _wrong("--set all: only --split all has that list, for an exported file; name both")
    return chosen


def _results_folder(options: argparse.Namespace, path: Path, own: bool = True) -> Path:
    """Return where results go.

    A run's own figures, which its report shows and its model carries, are of its own data and of
    whole lists; those of anything else lie beside them.
    """
    if options.out:
        return Path(options.out)
    if not path.is_dir():
        return Path(f"{path.stem}-evaluation")
    return path / "evaluation" if own else path / "evaluation" / "other"


def _run_report(options: argparse.Namespace) -> int:
    _write_report(options.run)
    return 0


def _prepare(
    data: Path, out: Path | None, options: argparse.Namespace, *, background: bool
) -> Path:
    from trainer.prepare import cache_folder, prepare

    spec = _spec(options)
    out = out or cache_folder(data, spec)
    prepared = prepare(data, out, spec, background=background, workers=options.workers)
    _say_skipped(prepared.skipped)
    _say(
        f"{prepared.made} pictures made, {prepared.kept} kept, {prepared.removed} removed, "
        f"{len(prepared.skipped)} tracks skipped: {prepared.folder}"
    )
    return prepared.folder


def _spec(options: argparse.Namespace) -> SpectrogramSpec:
    from streamer.core.spectrogram import SpectrogramSpec

    spec = SpectrogramSpec()
    changes: dict[str, Any] = {}
    if options.hop_ms is not None:
        changes["hop_length"] = round(options.hop_ms * spec.sample_rate / 1000)
    if options.n_fft is not None:
        changes["n_fft"] = options.n_fft
    if options.mels is not None:
        changes["n_mels"] = options.mels
    return dataclasses.replace(spec, **changes)


def _check_resume(options: argparse.Namespace) -> None:
    """Refuse what a run that goes on would not heed: it has its settings already."""
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in vars(options).items()
        if name not in ("command", "resume") and value not in (None, []) and value is not False
    ]
    if options.resume is not None and given:
        _wrong(
            f"--resume {options.resume} goes on with the run's own settings: leave out "
            f"{', '.join(given)}, or start another run with --weights {options.resume}"
        )


def _fit_run(options: argparse.Namespace) -> Path:
    _import_keras()
    from trainer.fit.loop import FitSettings, fit, resume

    if options.resume is not None:
        return resume(options.resume)
    # Absolute, so that the run can be judged from any folder later.
    fields: dict[str, Any] = {
        "data": options.data.resolve(),
        "out": options.out or _new_run_folder(),
    }
    names = [option[2:].replace("-", "_") for option, *_ in FIT_OPTIONS]
    for name in [*names, "keep", "precision", "weights", "seed"]:
        if getattr(options, name) is not None:
            fields[name] = getattr(options, name)
    if options.background is not None:
        fields["background"] = options.background.resolve()
    fields |= {
        "split": tuple(options.split),
        "exclude_faults": options.exclude_faults,
        "freeze_batch_norms": options.freeze_batch_norms,
        "tensorboard": options.tensorboard,
        "augmentation": _augmentation(options.augment),
    }
    return fit(FitSettings(**fields))


def _new_run_folder() -> Path:
    return Path("runs") / time.strftime("%Y%m%d-%H%M%S")


def _augmentation(changes: Sequence[str]) -> Any:
    from trainer.augment import NONE, Augmentation

    strength = Augmentation()
    known = {field.name: field for field in dataclasses.fields(Augmentation)}
    for change in changes:
        if change == "none":
            strength = NONE
            continue
        name, _, text = change.partition("=")
        if name not in known or not text:
            _wrong(f"--augment {change}: give none or NAME=VALUE with one of {', '.join(known)}")
        default = getattr(Augmentation(), name)
        try:
            value: Any = (
                tuple(float(part) for part in text.split(","))
                if isinstance(default, tuple)
                else type(default)(text)
            )
        except ValueError:
            _wrong(f"--augment {change}: {text} is no number such as {default}")
        if isinstance(default, tuple) and len(value) != len(default):
            _wrong(f"--augment {change}: give {len(default)} numbers with a comma between")
        try:
            strength = dataclasses.replace(strength, **{name: value})
        except ValueError as error:
            _wrong(f"--augment {change}: {error}")
    return strength


def _judged_path(options: argparse.Namespace) -> Path:
    path: Path | None = options.run or options.model
    if path is None or (options.run and options.model):
        _wrong("name one run folder or .onnx file")
    if not path.exists():
        _wrong(f"no such run or model: {path}")
    if options.split and path.is_dir():
        _wrong(
            f"--split {' '.join(options.split)}: a run is judged on its own lists, which stand in "
            "its run.json; leave it out, or export the run and judge the file"
        )
    return path


def _load(path: Path) -> Classifier:
    from trainer.loading import load_classifier

    if path.is_dir():
        _import_keras()
    return load_classifier(path)


def _import_keras() -> None:
    """Import Keras without the page that TensorFlow prints from C++, before it reads a setting."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import keras

        keras.backend.backend()
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def _sets(candidate: Classifier, options: argparse.Namespace) -> EvaluationSets:
    from trainer.evaluation_sets import find_evaluation_sets

    return find_evaluation_sets(
        candidate,
        data=options.data,
        background=options.background,
        split=options.split,
        seed=options.seed,
    )


def _evaluate(
    candidate: Classifier, sets: EvaluationSets, folder: Path, run: Path | None, seed: int
) -> None:
    """Evaluate, say and write the result; keep summary and temperature in `run`."""
    from trainer.evaluate import as_text, evaluate, summary, write_evaluation
    from trainer.run import update_facts

    evaluation = evaluate(candidate, sets, seed=seed)
    _say(as_text(evaluation))
    write_evaluation(evaluation, folder)
    if run is not None:
        update_facts(run, {"temperature": evaluation.temperature}, summary(evaluation))


def _write_report(run: Path) -> None:
    from trainer.report import write_report

    _say(f"report: {write_report(run)}")


def _say(text: str) -> None:
    print(text, flush=True)


def _say_skipped(skipped: Sequence[Skipped]) -> None:
    for entry in skipped:
        _say(f"skipped {entry.path}: {entry.reason}")


def _say_skipped_pictures(folder: Path, *, background: bool) -> None:
    from trainer.discovery import find_background, find_tracks

    _say_skipped((find_background if background else find_tracks)(folder)[1])


def _say_notes(notes: Sequence[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def _wrong(message: str) -> NoReturn:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    sys.exit(2)


COMMANDS: dict[
    str,
    tuple[
        Callable[[argparse.Namespace], int],
        Callable[[argparse.ArgumentParser], None],
        str,
    ],
] = {
    "all": (_run_all, _add_all_options, "prepare, fit, evaluate and report (the default)"),
    "prepare": (_run_prepare, _add_prepare_options, "make spectrogram pictures of audio"),
    "speak": (
        _run_speak,
        _add_speak_options,
        "make clips of speech with the synthesisers that are installed",
    ),
    "fit": (_run_fit, _add_fit_options, "train on pictures"),
    "average": (
        _run_average,
        _add_average_options,
        "average the weights of runs that started from the same one",
    ),
    "evaluate": (_run_evaluate, _add_judged_options, "judge a run or a model by its tracks"),
    "stream-test": (_run_stream_test, _add_stream_options, "judge what a listener would get"),
    "robustness": (
        _run_robustness,
        _add_robustness_options,
        "judge what microphones, rooms and radios cost",
    ),
    "report": (_run_report, _add_report_options, "write a run's report again"),
}


if __name__ == "__main__":
    sys.exit(main())
