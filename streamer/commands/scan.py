"""genre-stream scan: the genre of every file of a library, as CSV or JSON lines."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from streamer import settings as schema
from streamer.commands.run import add_option
from streamer.inputs import decision_settings, load_classifier
from streamer.library.answer import WOULD_WRITE, WRITTEN, FileAnswer, share_names
from streamer.library.cluster import do_jobs_on_cluster
from streamer.library.earlier import Known, compact, encoded, read_again, read_earlier
from streamer.library.files import absolute, find_files
from streamer.library.job import Job, ScanOptions, is_tagged
from streamer.library.progress import Progress, duration
from streamer.library.table import Table
from streamer.library.workers import do_jobs
from streamer.outputs import missing
from streamer.system.commandline import INTERRUPTED, ArgumentParser, UserError
from streamer.system.console import plural, print_error
from streamer.system.files import check_writable
from streamer.system.processors import processors

HOP_SECONDS = 2.5
"""Hop of a scan unless one is given: a file as a whole needs fewer decisions than a listener."""

DESCRIPTION = """\
Write the genre of every file as CSV: its path, seconds, genre and confidence, the share of its
seconds by label, its size and time, and what is wrong with it. The decisions are those of a live
listener; the genre is the one that is most probable on average. Settings of the model and of
decisions are those of genre-stream, but for the hop, which only --hop-seconds changes.
"""

EPILOG = """\
Exit status: 0 done, 1 a file failed or the table cannot be written, 2 wrong usage or settings.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream scan",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    files_help = "audio files, and folders in which to look for them"
    parser.add_argument("files", nargs="+", metavar="FILE|FOLDER", help=files_help)
    form = parser.add_mutually_exclusive_group()
    csv_help = "write CSV to this file instead of standard output"
    form.add_argument("--csv", type=Path, metavar="FILE", help=csv_help)
    json_help = "write JSON lines to this file; - is standard output"
    form.add_argument("--json", type=Path, metavar="FILE", help=json_help)
    segments_help = "write the stretches of each genre, too"
    parser.add_argument("--segments", action="store_true", help=segments_help)
    resume_help = (
        "continue the file of --csv or --json: leave out what it has, unless a file failed "
    )
    resume_help += "or its size or time has changed"
    parser.add_argument("--resume", action="store_true", help=resume_help)
    jobs_help = f"files that are read at once (default: one a processor, {processors()})"
    parser.add_argument("--jobs", type=int, metavar="N", help=jobs_help)
    address_help = "a Ray cluster that reads the files (extra fleet): HOST:PORT, or auto for that "
    address_help += "of this machine; its machines need the files at the same paths"
    parser.add_argument("--address", metavar="ADDRESS", help=address_help)
    tags = parser.add_argument_group("tags (needs the extra tags)")
    tags_help = "write the genre into the tags of the files that have none"
    tags.add_argument("--write-tags", action="store_true", help=tags_help)
    tags.add_argument("--overwrite", action="store_true", help="replace genres that are there")
    tags.add_argument("--dry-run", action="store_true", help="write no tags, only say which")
    for heading in (schema.MODEL, schema.DECISIONS):
        group = parser.add_argument_group(heading)
        for name, field in schema.fields_by_group()[heading]:
            if name == "hop_seconds":
                hop_help = f"seconds of audio between two decisions (default: {HOP_SECONDS})"
                group.add_argument("--hop-seconds", metavar="S", help=hop_help)
            elif name not in ("threads", "colours"):
                add_option(group, name, field)
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this TOML file as well")
    return parser


def main(argv: Sequence[str]) -> int:
    """Scan files and folders; return the exit status."""
    given = vars(build_parser().parse_args(argv))
    if given.get("jobs", 1) < 1:
        raise UserError(f"--jobs {given['jobs']}: must be at least 1")
    options, shares = _options(given)
    target = given.get("json", given.get("csv"))
    target = None if target == Path("-") else target
    table = Table(shares, segments="segments" in given, as_json="json" in given)
    earlier = _earlier(target, table, options, resume="resume" in given)
    unreadable: list[OSError] = []
    files = find_files(given["files"], unreadable.append)
    for error in unreadable:
        print_error(f"{error.filename}: {(error.strerror or '').lower()}")
    new, untagged = _left(files, earlier)
    left = len(new) + len(untagged)
    jobs: Iterable[Job] = map(Job, new)
    if target is not None and untagged:
        of_table = read_again(target, table, len(earlier))
        jobs = itertools.chain(jobs, _tag_jobs(of_table, untagged))
    counts = Counter(failed=len(unreadable), kept=len(files) - left)
    interrupted = False
    is_new = target is None or not target.exists() or not target.stat().st_size
    header = table.header() if is_new else ""
    with _output(target) as output, closing(_answers(jobs, left, options, given)) as answers:
        progress = Progress(left, shown=target is not None or not sys.stdout.isatty())
        try:
            _write(answers, table, header, output, progress, counts)
        except KeyboardInterrupt:
            interrupted = True
    if target is not None and len(earlier) > counts["kept"]:
        compact(target, table)
    print(_summary(progress, counts), file=sys.stderr)
    if interrupted:
        print_error("interrupted; to go on: the same command with --resume")
        return INTERRUPTED
    return 1 if counts["failed"] else 0


def _answers(
    jobs: Iterable[Job], count: int, options: ScanOptions, given: Mapping[str, Any]
) -> Generator[FileAnswer, None, None]:
    if "address" in given:
        return do_jobs_on_cluster(jobs, options, given["address"], given.get("jobs"))
    return do_jobs(jobs, options, min(given.get("jobs") or processors(), count))


def _options(given: Mapping[str, Any]) -> tuple[ScanOptions, tuple[str, ...]]:
    """Return the options of a scan, and what it has shares of; raise `UserError`."""
    write_tags = "write_tags" in given
    for name in ("overwrite", "dry_run"):
        if name in given and not write_tags:
            raise UserError(f"{schema.option(name)} needs --write-tags as well")
    if write_tags and importlib.util.find_spec("mutagen") is None:
        raise missing("tags")
    layer = {name: given[name] for name in given if name in schema.Settings.model_fields}
    layer.setdefault("hop_seconds", HOP_SECONDS)
    settings = schema.load(layer, config=given.get("config")).settings
    classifier = load_classifier(settings)
    options = ScanOptions(
        model=settings.model and settings.model.absolute(),
        hop_seconds=settings.hop_seconds,
        labels=settings.labels,
        decision=decision_settings(settings, classifier),
        arithmetic=classifier.arithmetic,
        effort=settings.effort or "full",
        write_tags=write_tags,
        overwrite="overwrite" in given,
        dry_run="dry_run" in given,
    )
    return options, share_names(classifier.names)


def _earlier(
    target: Path | None, table: Table, options: ScanOptions, *, resume: bool
) -> dict[str, Known]:
    """Return what the table of an earlier scan has, by absolute path; prepare it for more rows."""
    if target is None:
        if resume:
            raise UserError("--resume needs the table to continue: --csv FILE or --json FILE")
        return {}
    check_writable(target)
    if not target.exists() or not target.stat().st_size:
        return {}
    if not resume:
        raise UserError(f"{target} exists: name another file, or continue it with --resume")
    return read_earlier(target, table, lambda answer: _lacks_tag(answer, options))


def _left(files: Iterable[str], earlier: Mapping[str, Known]) -> tuple[list[str], dict[str, str]]:
    """Return the files to analyse, and by absolute path those that only lack a tag."""
    new: list[str] = []
    untagged: dict[str, str] = {}
    for path in files:
        place = absolute(path)
        known = earlier.get(place)
        if known is None or not known.is_current(path):
            new.append(path)
        elif known.is_wanted:
            untagged[place] = path
    return new, untagged


def _tag_jobs(answers: Iterable[FileAnswer], untagged: dict[str, str]) -> Iterator[Job]:
    for answer in answers:
        path = untagged.pop(absolute(answer.path), None)
        if path is not None:
            yield Job(path, replace(answer, path=path))


def _lacks_tag(answer: FileAnswer, options: ScanOptions) -> bool:
    """Return whether the tag of a file is still to be written."""
    return options.write_tags and bool(answer.genre) and not is_tagged(answer, options)


@contextmanager
def _output(target: Path | None) -> Iterator[BinaryIO]:
    """Open what rows are written to."""
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(target.open("ab")) if target else sys.stdout.buffer
            yield file
    except BrokenPipeError:  # handled by `run_program`
        raise
    except OSError as error:
        place = target or "standard output"
        raise UserError(f"cannot write {place}: {error.strerror}", exit_status=1) from None


def _write(
    answers: Iterator[FileAnswer],
    table: Table,
    header: str,
    output: BinaryIO,
    progress: Progress,
    counts: Counter[str],
) -> None:
    for answer in answers:
        # At once, so that a scan that is killed can be resumed from here.
        output.write(encoded(header + table.row(answer)))
        output.flush()
        header = ""
        counts["seconds"] += round(answer.seconds or 0)
        counts["failed"] += answer.failed
        counts["damaged"] += bool(answer.problem) and not answer.failed
        counts[answer.tag] += 1
        if answer.problem:
            progress.clear()
            print_error(f"{answer.path}: {answer.problem}")
        progress.advance()
    progress.clear()


def _summary(progress: Progress, counts: Counter[str]) -> str:
    took = max(progress.seconds, 1e-9)
    parts = ["nothing to do"]
    if progress.done:
        parts = [
            f"{plural(progress.done, 'file')} in {duration(took)}",
            f"{progress.done / took:.3g} files a second",
            f"{counts['seconds'] / took:.3g} times real time",
        ]
    if progress.done or counts["failed"]:
        parts.append(f"{counts['failed']} failed")
    for name, text in (
        ("damaged", "damaged but readable"),
        ("kept", "already in the table"),
        (WRITTEN, "tags written"),
        (WOULD_WRITE, "tags would be written"),
    ):
        if counts[name]:
            parts.append(f"{counts[name]} {text}")
    return ", ".join(parts)
