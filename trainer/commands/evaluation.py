"""genre-train evaluate, stream-test, robustness and report."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from streamer.core.decision_settings import RESPONSE_HOP_SECONDS, Effort
from streamer.system.commandline import UserError, print_line
from trainer.commands import options
from trainer.commands.output import data_folder, import_keras, print_skipped
from trainer.run import update_run

if TYPE_CHECKING:
    from streamer.core.model import Classifier
    from trainer.evaluation_sets import EvaluationSets


def _run_evaluate(given: argparse.Namespace) -> int:
    path = _run_or_model(given)
    model, sets = _load(path, given)
    print_skipped(sets.skipped)
    own = not (given.data or given.background)
    run = path if own and path.is_dir() else None
    _evaluate(model, sets, _results_folder(given, path, own), run, given.seed)
    return 0


def evaluate_run(run: Path) -> None:
    """Evaluate a run on its own lists."""
    _evaluate(*_load(run), run / "evaluation", run, seed=0)


def _evaluate(
    model: Classifier, sets: EvaluationSets, folder: Path, run: Path | None, seed: int
) -> None:
    """Evaluate, print and write the result; record summary and temperature in `run`."""
    from trainer.evaluate import as_text, evaluate, summary, write_evaluation

    evaluation = evaluate(model, sets, seed=seed)
    print_line(as_text(evaluation))
    write_evaluation(evaluation, folder)
    if run is not None:
        update_run(run, summary(evaluation), temperature=evaluation.temperature)


def _add_stream_options(parser: argparse.ArgumentParser) -> None:
    _add_robustness_options(parser)
    parser.add_argument(
        "--limit", type=options.number(int, 1), metavar="N", help="play only N tracks"
    )
    seconds = options.number(float, 0.1, 600)
    parser.add_argument(
        "--gap-seconds", type=seconds, default=4.0, help="silence where there is some (4)"
    )
    parser.add_argument("--hop-seconds", type=seconds, help="between decisions (1)")
    parser.add_argument(
        "--response",
        choices=tuple(RESPONSE_HOP_SECONDS),
        default="normal",
        help="hop and decision settings, as genre-stream takes them (normal)",
    )
    parser.add_argument(
        "--effort",
        choices=get_args(Effort),
        default="full",
        help="as of genre-stream: saving classifies only where something may have changed (full)",
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="search smoothing and thresholds on the valid list and keep the best in run.json",
    )
    parser.add_argument(
        "--right-of-claimed",
        type=options.share,
        metavar="SHARE",
        help="with --tune: claim as much as possible while so many of the claims are right, "
        "such as 0.9",
    )
    parser.add_argument(
        "--labels",
        action="append",
        type=options.label_name,
        default=[],
        metavar="LABEL=NAME",
        help="judge names of one's own as well, as genre-stream takes them: labels with the same "
        "name are decided as one, and false drops a label from what may be claimed; may be "
        "repeated",
    )


def _run_stream_test(given: argparse.Namespace) -> int:
    from trainer.label_names import judge_names, named_as_text, read_names
    from trainer.stream_test import alone_as_text, as_text, stream_test, write_stream_test
    from trainer.tuning import judge_alone, tune

    path = _run_or_model(given)
    name = _set_name(given)
    if given.tune and (not path.is_dir() or name != "valid"):
        raise UserError("--tune needs a run folder, into which it writes, and the valid list")
    if given.right_of_claimed is not None and not given.tune:
        raise UserError("--right-of-claimed says what --tune is to look for; add --tune")
    if given.tune and given.response != "normal":
        raise UserError("--tune searches the settings that --response chooses; leave one out")
    model, sets = _load(path, given)
    names = read_names(model.contract, dict(given.labels))
    if given.tune and name in sets.trained_on:
        raise UserError(
            f"--tune: {path} was trained on its valid list; genre-train fuse --like RUN takes the "
            "decision settings of the run that held it back"
        )
    test = stream_test(
        model,
        sets,
        name,
        limit=given.limit,
        gap_seconds=given.gap_seconds,
        hop_seconds=given.hop_seconds or RESPONSE_HOP_SECONDS[given.response],
        effort=given.effort,
        response=given.response,
        seed=given.seed,
    )
    print_skipped([*sets.skipped, *test.stream.skipped])
    _print_notes([*sets.notes, *test.notes])
    known = " (trained on)" if name in sets.trained_on else ""
    text = as_text(test.result, f"{name}{known}", sets.protocol)
    print_line(f"{text}\n  {test.hints}")
    if given.tune:
        test = tune(test, model.contract, given.right_of_claimed)
        chosen = ", ".join(f"{setting} {value}" for setting, value in test.settings.items())
        print_line(f"tuned: {chosen}\n{as_text(test.result, name, sets.protocol)}")
    if test.said:
        test = dataclasses.replace(test, alone=judge_alone(test, model.contract))
        print_line(alone_as_text(test.alone))
    if given.labels:
        test = dataclasses.replace(test, named=judge_names(test, model.contract, names))
        print_line(named_as_text(test.named, names))
    whole = given.limit is None or given.limit >= len(sets.music[name])
    own = whole and not (given.data or given.background)
    write_stream_test(test, _results_folder(given, path, own), name, sets)
    if path.is_dir():
        metrics = {f"stream_{name}": dataclasses.asdict(test.result)} if own else {}
        update_run(path, metrics, **({"decision": test.settings} if given.tune else {}))
    return 0


def _add_robustness_options(parser: argparse.ArgumentParser) -> None:
    options.add_evaluation(parser)
    parser.add_argument(
        "--set",
        choices=("valid", "test", "all"),
        help="which list (valid; with --split all there is only one, all)",
    )


def _run_robustness(given: argparse.Namespace) -> int:
    from trainer.robustness import as_text, robustness, write_robustness

    path = _run_or_model(given)
    name = _set_name(given)
    model, sets = _load(path, given)
    print_skipped(sets.skipped)
    _print_notes(sets.notes)
    tracks = sets.music.get(name)
    if not tracks:
        raise UserError(f"--set {name}: none of its tracks is in the data folder")
    # The background of a run's training may be pictures, which cannot be mixed with audio.
    sounds = sets.background.get(name, []) if given.background else []
    results = robustness(model, tracks, sounds, seed=given.seed)
    print_line(as_text(results, name, sets.protocol))
    write_robustness(results, _results_folder(given, path), name, sets.protocol)
    if path.is_dir():
        update_run(path, {f"robustness_{name}": [dataclasses.asdict(each) for each in results]})
    return 0


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")


def run_report(given: argparse.Namespace) -> int:
    """Write the report of the run folder `given.run` and print where it is."""
    from trainer.report import write_report

    print_line(f"report: {write_report(given.run)}")
    return 0


def _run_or_model(given: argparse.Namespace) -> Path:
    """Return the run folder or model file that the command names."""
    path: Path | None = given.run or given.model
    if path is None or (given.run and given.model):
        raise UserError("name one run folder or .onnx file")
    if not path.exists():
        raise UserError(f"no such run or model: {path}")
    if given.split and path.is_dir():
        raise UserError(
            f"--split {' '.join(given.split)}: a run is judged on its own lists, which stand in "
            "its run.json; leave it out, or export the run and judge the file"
        )
    return path


def _set_name(given: argparse.Namespace) -> str:
    """Return the list to evaluate on; with `--split all` there is only one."""
    everything = given.split == ["all"]
    name: str = given.set or ("all" if everything else "valid")
    if everything and name != "all":
        raise UserError(
            f"--set {name}: --split all is one list of everything; leave out one of the two"
        )
    if name == "all" and not everything:
        raise UserError(
            "--set all: only --split all has that list, for an exported file; name both"
        )
    return name


def _load(path: Path, given: argparse.Namespace | None = None) -> tuple[Classifier, EvaluationSets]:
    """Load a run or a model, and find the tracks to evaluate it on: by default a run's own."""
    if path.is_dir():
        import_keras()
    from trainer.evaluation_sets import find_evaluation_sets
    from trainer.loading import load_classifier

    model = load_classifier(path)
    names = ("data", "background", "split", "seed")
    chosen = {name: getattr(given, name) for name in names} if given else {}
    if chosen.get("data"):
        chosen["data"] = data_folder(chosen["data"])
    return model, find_evaluation_sets(model, **chosen)


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print_line(f"note: {note}")


def _results_folder(given: argparse.Namespace, path: Path, own: bool = True) -> Path:
    """Return the folder of the results.

    `RUN/evaluation`, which the report shows, holds only results of a run on its `own` data and
    whole lists; others go to a folder in it.
    """
    if given.out:
        return Path(given.out)
    if not path.is_dir():
        return Path(f"{path.stem}-evaluation")
    return path / "evaluation" if own else path / "evaluation" / "other"


COMMANDS: dict[str, options.Command] = {
    "evaluate": (_run_evaluate, options.add_evaluation, "judge a run or a model by its tracks"),
    "stream-test": (_run_stream_test, _add_stream_options, "judge what a listener would get"),
    "robustness": (
        _run_robustness,
        _add_robustness_options,
        "judge what microphones, rooms and radios cost",
    ),
    "report": (run_report, _add_report_options, "write a run's report again"),
}
