"""Write a run's report: one self-contained HTML page, and its figures and tables as files."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from streamer.core.spectrogram import from_levels, relative_to_peak
from streamer.system.files import write_file
from trainer import figures
from trainer.augment import augment
from trainer.discovery import find_background, find_tracks
from trainer.evaluate import set_title
from trainer.pictures import read_picture
from trainer.run import Run, read_run
from trainer.tracks import DatasetError, Skipped, Track

EXAMPLE_TRACKS = 3
EXAMPLES_AUGMENTED = 2
"""Number of augmented windows of each example."""

MAX_LISTED = 100
"""Number of missing or skipped tracks that are listed."""

CSS_FILE = Path(__file__).with_name("report.css")

SET_ROWS = {
    "Tracks right": "{accuracy_track:.1%}",
    "Tracks with the genre among the first two": "{top2_track:.1%}",
    "Macro F1": "{macro_f1:.3f}",
    "Single windows right": "{accuracy_crop:.1%}",
    "NLL of a window, before and after temperature scaling": "{nll_before:.3f} / {nll_after:.3f}",
    "Expected calibration error, 15 bins, before and after": "{ece_before:.3f} / {ece_after:.3f}",
    "Temperature": "{temperature:.3f} ({temperature_source})",
}
"""Formats of the fields of `trainer.evaluate.SetMetrics` and `Evaluation`, by title."""

NOT_MUSIC_ROWS = {
    "Sounds that are not music recognised": "{recall:.1%} of {clips:.0f} clips",
    "Music predicted as not music": "{false_alarms:.1%}",
}
"""Formats of the entries of `SetMetrics.not_music`."""

STREAM_ROWS = {
    "Seconds labelled right": "{right:.1%}",
    "Seconds labelled uncertain": "{uncertain:.1%}",
    "Seconds of music that get a genre": "{claimed_in_music:.1%}",
    "Claimed genres that are right": "{right_of_claimed:.1%}",
    "Expected calibration error, smoothed": "{ece:.3f}",
    "Seconds to the right label, median / 95th percentile": "{delays}",
    "Songs that never got the right label": "{never_right} of {songs}",
    "Label changes a minute inside songs": "{changes_per_minute:.2f}",
    "Genre claimed on silence": "{claimed_on_silence:.0f} of {silence:.0f} s",
    "Genre claimed on sounds between songs": "{claimed_on_not_music:.0f} of {not_music:.0f} s",
    "Genre claimed on sounds without music": "{claimed_without_music:.0f} of {without_music:.0f} s",
    "Seconds of music called not music": "{not_music_in_music:.1%}",
}
"""Formats of the fields of `trainer.stream_test.StreamResult`."""

ROBUSTNESS_COLUMNS = {
    "Degradation": "{way}",
    "Tracks right": "{accuracy:.1%}",
    "NLL": "{nll:.3f}",
    "ECE": "{ece:.3f}",
    "Same prediction as clean": "{same_as_clean:.1%}",
    "Not music": "{not_music:.1%}",
}
"""Formats of the fields of `trainer.robustness.RobustnessResult`."""


def write_report(folder: Path) -> Path:
    """Write `RUN/report/index.html` and return its path; missing evaluations are left out.

    DatasetError is raised if the files of an evaluation are damaged.
    """
    run = read_run(folder)
    results = folder / "evaluation"
    report = folder / "report"
    report.mkdir(exist_ok=True)
    tracks, skipped = _tracks_of(run)
    metrics = results / "metrics.json"
    evaluation = _read(metrics, json.load) if metrics.is_file() else {}
    name, seconds = _text(folder.resolve().name), run.window_frames * run.spec.hop_seconds
    about = (
        f"InceptionV3 on windows of {seconds:.1f} s, {len(run.labels)} labels, "
        f"{len(run.split.train)} training tracks, seed {run.seed}."
    )
    sections = [
        f"<h1>{name}</h1>{_soft(about)}",
        _headline(run, evaluation),
        _training_section(folder, report),
        *(_set_section(results, part, evaluation, report) for part in evaluation.get("sets", {})),
        *(
            _stream_section(results, _read(path, json.load), run.labels, report)
            for path in sorted(results.glob("stream_*.json"))
        ),
        *(
            _robustness_section(_read(path, json.load), report)
            for path in sorted(results.glob("robustness_*.json"))
        ),
        _examples_section(run, tracks, report),
        _skipped_section(run, skipped),
        _settings_section(run),
    ]
    page = report / "index.html"
    write_file(
        page,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>genre-train: {name}</title>"
        f"<style>\n{CSS_FILE.read_text()}</style></head>\n<body>\n<main>"
        + "\n".join(section for section in sections if section)
        + "</main>\n</body></html>\n",
    )
    return page


def _read(path: Path, parse: Callable[..., Any], **options: Any) -> Any:
    """Parse a file of an evaluation with `json.load` or `pandas.read_csv`."""
    try:
        with path.open(encoding="utf-8") as file:
            return parse(file, **options)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is damaged or gone: evaluate again, or delete it") from error


def _tracks_of(run: Run) -> tuple[list[Track], list[Skipped]]:
    """Return the tracks and the skipped files of a run's folders; none if a folder is gone."""
    try:
        tracks, skipped = find_tracks(run.settings.data)
        if run.settings.background:
            skipped = skipped + find_background(run.settings.background)[1]
    except DatasetError:
        return [], []
    return tracks, skipped


def _figures(report: Path, *drawn: tuple[str, Figure, str, pd.DataFrame | None]) -> str:
    """Write figures and return them as HTML with embedded SVG images.

    Each has a name, the figure, a caption and its numbers, which are written as CSV.
    """
    elements = ""
    for name, figure, caption, numbers in drawn:
        image, vector = io.BytesIO(), io.BytesIO()
        figure.savefig(image, format="png", dpi=160)
        write_file(report / f"{name}.png", image.getvalue())
        if numbers is not None:
            write_file(report / f"{name}.csv", numbers.to_csv())
        figure.savefig(vector, format="svg", metadata={"Date": None})
        svg = base64.b64encode(vector.getvalue()).decode()
        elements += (
            f'<figure><img alt="{_text(caption)}" src="data:image/svg+xml;base64,{svg}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )
    return f'<div class="figures">{elements}</div>'


def _text(value: object) -> str:
    return html.escape(str(value))


def _soft(text: str) -> str:
    return f'<p class="soft">{text}</p>'


def _table(rows: Iterable[Sequence[object]], head: Sequence[str] = (), numbers: int = 0) -> str:
    """Return a table whose last `numbers` columns are aligned to the right."""

    def line(cells: Sequence[object], tag: str) -> str:
        first = len(cells) - numbers
        return "".join(
            f"<{tag}{' class=n' if place >= first else ''}>{_text(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _rows(formats: Mapping[str, str], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a table row, title and formatted values, for each format."""
    return [(title, template.format(**values)) for title, template in formats.items()]


def _headline(run: Run, evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return (
            '<div class="note">Not evaluated yet: run <code>genre-train evaluate</code>.</div>'
            f"<p>Split: {_text(run.split.protocol)}.</p>"
        )
    cards, split = "", f"Split: {_text(evaluation['protocol'])}."
    for name, result in evaluation["sets"].items():
        low, high = result["interval_track"]
        cards += (
            f'<div class="card"><h3>{_text(_title(name, result))}</h3>'
            f'<div class="number">{result["accuracy_track"]:.1%}</div>'
            f"<p>of {result['tracks']} tracks right, 95 % interval {low:.1%} to {high:.1%}"
            + (f"; chance {result['chance']:.1%}</p>" if "chance" in result else "</p>")
            + _soft(f"{result['accuracy_crop']:.1%} of single windows. {split}")
            + "</div>"
        )
    notes = list(evaluation["notes"])
    for name in ("valid", "test"):
        if name not in evaluation["sets"]:
            notes.append(f"there is no accuracy on {name}: no track of that list was found")
    return (
        f'<div class="cards">{cards}</div>'
        + "".join(f'<div class="note">{_text(note)}</div>' for note in notes)
        + _soft(
            "The best epoch was chosen and the temperature fitted on the valid list, so its "
            "numbers are optimistic; the test list was not used in training."
        )
    )


def _title(name: str, result: Mapping[str, Any]) -> str:
    """Return the name of a set, which answers it judges and whether it was trained on."""
    return set_title(name) + (" (trained on)" if result.get("trained_on") else "")


def _training_section(folder: Path, report: Path) -> str:
    path = folder / "history.csv"
    if not path.is_file():
        return ""
    history = _read(path, pd.read_csv)
    drawing = _figures(
        report,
        (
            "learning_curves",
            figures.learning_curves(history),
            "Loss and accuracy by epoch. The training loss is that of augmented, mixed windows "
            "with smoothed labels, so it cannot be compared with the valid one.",
            history.set_index("epoch"),
        ),
    )
    return f"<h2>Training</h2>{drawing}"


def _set_section(results: Path, name: str, evaluation: Mapping[str, Any], report: Path) -> str:
    result = evaluation["sets"][name]
    matrix = _read(results / f"confusion_{name}.csv", pd.read_csv, index_col=0)
    bins = _read(results / f"reliability_{name}.csv", pd.read_csv)
    genres = pd.DataFrame(result["genres"])
    drawings = _figures(
        report,
        (
            f"confusion_{name}",
            figures.confusion_matrix(matrix),
            f"Tracks of the {name} list by true and predicted label.",
            matrix,
        ),
        (
            f"genres_{name}",
            figures.genre_bars(genres),
            f"Precision and recall by genre on {name} (number of tracks).",
            genres.set_index("genre"),
        ),
        (
            f"reliability_{name}",
            figures.reliability_diagram(bins),
            f"Accuracy of the windows of {name} by confidence; a dot's size is their number.",
            bins.set_index("temperature"),
        ),
    )
    rows = _rows(SET_ROWS, {**evaluation, **result})
    if result["not_music"]:
        rows += _rows(NOT_MUSIC_ROWS, result["not_music"])
    mistakes = [
        (mistake["track"], mistake["predicted"], f"{mistake['confidence']:.0%}")
        for mistake in result["mistakes"]
    ]
    table = f"<h3>Most confident mistakes on {_text(name)}</h3>" + _table(
        mistakes, ("track", "predicted", "confidence"), numbers=1
    )
    split = _soft(f"Split: {_text(evaluation['protocol'])}.")
    heading = f"<h2>On the list {_text(_title(name, result))}</h2>"
    section = f"{heading}{split}{_table(rows, numbers=1)}{drawings}"
    return section + table if mistakes else section


def _stream_section(
    results: Path, stream: Mapping[str, Any], labels: Sequence[str], report: Path
) -> str:
    name, result = stream["set"], stream["result"]
    truth = _read(results / f"stream_{name}_programme.csv", pd.read_csv)
    decisions = _read(results / f"stream_{name}_decisions.csv", pd.read_csv)
    after = pd.Series(result["accuracy_after"], name="right").rename_axis("seconds")
    drawings = _figures(
        report,
        (
            f"timeline_{name}",
            figures.timeline(truth, decisions, labels),
            "What was played and what was decided (the first half hour).",
            decisions,
        ),
        (
            f"seconds_heard_{name}",
            figures.accuracy_by_seconds(result["accuracy_after"]),
            "Share of songs with the right label after so many seconds.",
            after.to_frame(),
        ),
    )
    delays = "never"
    if result["delay_median"] is not None:
        delays = f"{result['delay_median']:.1f} / {result['delay_p95']:.1f}"
    rows = _rows(STREAM_ROWS, {**result, "delays": delays})
    for title, own in stream.get("alone", {}).items():
        claimed = "{claimed_in_music:.1%} / {right_of_claimed:.1%}".format(**own)
        rows.append((f"Music with a genre / claims right, {title} alone", claimed))
    settings = ", ".join(f"{key} {value}" for key, value in stream["settings"].items())
    about = _soft(
        f"Split: {_text(stream['protocol'])}. {result['songs']} songs in random order, "
        f"{result['seconds'] / 60:.0f} minutes, played through the daemon's pipeline. "
        f"Decision settings: {_text(settings or 'defaults')}."
    )
    return f"<h2>{_text(name)} as a stream</h2>{about}{_table(rows, numbers=1)}{drawings}"


def _robustness_section(content: Mapping[str, Any], report: Path) -> str:
    name, table = content["set"], pd.DataFrame(content["ways"])
    drawing = _figures(
        report,
        (
            f"robustness_{name}",
            figures.degradations(table),
            f"Accuracy on tracks of {name} with degraded audio, with 95 % intervals.",
            table.set_index("way"),
        ),
    )
    columns = dict(ROBUSTNESS_COLUMNS)
    if all(way.get("tags_accuracy") is not None for way in content["ways"]):
        columns |= {
            "Spectrogram alone": "{spectrogram_accuracy:.1%}",
            "Tags alone": "{tags_accuracy:.1%}",
        }
    if any(way.get("not_music") is None for way in content["ways"]):
        del columns["Not music"]
    rows = [[cell.format(**way) for cell in columns.values()] for way in content["ways"]]
    about = _soft(
        f"Split: {_text(content['protocol'])}. {table['tracks'][0]} tracks, whose audio was "
        "degraded before the spectrogram was computed."
    )
    return (
        f"<h2>Through microphones, rooms and radios: {_text(name)}</h2>"
        f"{about}{_table(rows, list(columns), numbers=len(columns) - 1)}{drawing}"
    )


def _examples_section(run: Run, tracks: Sequence[Track], report: Path) -> str:
    trained_on = set(run.split.train)
    first_of_genre = {track.genre: track for track in reversed(tracks) if track.name in trained_on}
    chosen = sorted(first_of_genre.values(), key=lambda track: track.name)[:EXAMPLE_TRACKS]
    if not chosen:
        return ""
    spec, strength = run.spec, run.settings.augmentation
    random = np.random.default_rng(run.seed)
    examples = []
    for track in chosen:
        levels = read_picture(track.path)[:, : run.window_frames]
        window = relative_to_peak(from_levels(levels, spec.top_db), spec.top_db)
        augmented = [augment(window, random, spec, strength) for _ in range(EXAMPLES_AUGMENTED)]
        examples.append((track.name, [window, *augmented]))
    drawing = _figures(
        report,
        (
            "spectrograms",
            figures.spectrogram_examples(examples, spec.top_db),
            "Windows unchanged (left) and augmented as in training; time to the right, "
            f"{spec.n_mels} mel bands upwards, {spec.top_db:g} dB from dark to light.",
            None,
        ),
    )
    return f"<h2>Input of the network</h2>{drawing}"


def _skipped_section(run: Run, skipped: Sequence[Skipped]) -> str:
    missing = run.split.missing
    content = ""
    if missing:
        names = ", ".join(missing[:MAX_LISTED]) + (" …" if len(missing) > MAX_LISTED else "")
        content += (
            f"<details><summary>{len(missing)} tracks of the lists were not found</summary>"
            f"<p>{_text(names)}</p></details>"
        )
    if skipped:
        rows = [(entry.path, entry.reason) for entry in skipped[:MAX_LISTED]]
        content += f"<h3>{len(skipped)} files were skipped</h3>" + _table(rows, ("file", "reason"))
    if not content:
        content = "<p>Every file could be used and every listed track was found.</p>"
    return f"<h2>Skipped</h2>{content}"


def _settings_section(run: Run) -> str:
    settings = dataclasses.asdict(run.settings)
    strengths = settings.pop("augmentation")
    rows = [*settings.items(), *((f"augmentation {name}", strengths[name]) for name in strengths)]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    return (
        "<h2>How it was made</h2>"
        f"<pre>{_text(run.command)}</pre>"
        f"<p>Commit {_text(run.git or 'unknown')}; {_text(versions)}; "
        f"{run.train_seconds / 60:.0f} minutes of training.</p>"
        f"<details><summary>All settings</summary>{_table(rows)}</details>"
    )
