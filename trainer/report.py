"""A run's report: one HTML page that needs nothing beside it, and its figures and numbers as files.

The page states the split and its protocol beside every accuracy.
"""

from __future__ import annotations

import base64
import contextlib
import html
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from streamer.core.spectrogram import Columns, SpectrogramSpec, from_levels, relative_to_peak
from trainer import figures
from trainer.augment import Augmentation, augment
from trainer.discovery import find_background, find_tracks
from trainer.pictures import read_picture
from trainer.run_folder import read_facts
from trainer.tracks import DatasetError, Skipped, Track
from trainer.writing import write_file, write_table

EXAMPLES = 3
"""Tracks whose spectrograms are shown."""

VARIATIONS = 2
"""Augmented windows shown of each."""

LISTED = 100
"""Names of missing or skipped tracks that are written out."""

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #566070; --line: #dde2e9; --wash: #f5f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1.2rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
.card h3 { margin-top: 0; }
.figures { margin-top: 1rem; }
p { margin: .4rem 0; } .soft { color: var(--soft); }
.cards, .figures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
.figures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.card { border: 1px solid var(--line); border-radius: .6rem; padding: .9rem 1rem;
  background: var(--wash); }
.number { font-size: 2.2rem; font-weight: 650; line-height: 1.1; }
.note { border-left: .25rem solid #d1631c; padding: .3rem .8rem; background: #fdf4ed;
  margin: .5rem 0; overflow-wrap: anywhere; }
figure { margin: 0; break-inside: avoid; } figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .87rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td { overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere;
  white-space: pre-wrap; }
summary { cursor: pointer; }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; }
  .card { background: none; } tr, .card { break-inside: avoid; } }
"""


def write_report(run: Path) -> Path:
    """Write `RUN/report/index.html` with what is known about a run by now.

    Parameters
    ----------
    run : Path
        Run folder; what was not done yet (evaluation, stream test) is said to be missing.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DatasetError
        If the folder holds no run or what an evaluation wrote there is damaged.
    """
    facts = read_facts(run)
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    book = _Book(folder)
    evaluation = _read_json(run / "evaluation" / "metrics.json")
    streams = [_read_json(path) for path in sorted((run / "evaluation").glob("stream_*.json"))]
    ways = sorted((run / "evaluation").glob("robustness_*.json"))
    tracks, skipped = _tracks_of(facts)
    sections = [
        _header(run, facts),
        _headline(facts, evaluation),
        _learning(run, book),
        *(_set_section(run, name, evaluation, book) for name in evaluation.get("sets", {})),
        *(_stream_section(run, stream, facts, book) for stream in streams),
        *(_robustness_section(path, book) for path in ways),
        _examples(facts, tracks, book),
        _left_out(facts, skipped),
        _how_it_was_made(facts),
    ]
    page = folder / "index.html"
    write_file(page, _page(f"genre-train: {run.resolve().name}", sections))
    return page


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    with _readable(path):
        content: dict[str, Any] = json.loads(path.read_text())
        return content


def _read_table(path: Path, index: int | None = None) -> pd.DataFrame:
    with _readable(path):
        return pd.read_csv(path, index_col=index)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say in one line that a file which an evaluation wrote cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is damaged or gone: evaluate again, or delete it") from error


def _tracks_of(facts: Mapping[str, Any]) -> tuple[list[Track], list[Skipped]]:
    """Return the tracks of a run's folders and what was skipped there; none if they are gone."""
    settings = facts["settings"]
    try:
        tracks, skipped = find_tracks(Path(settings["data"]))
        if settings["background"]:
            skipped = skipped + find_background(Path(settings["background"]))[1]
    except DatasetError:
        return [], []
    return tracks, skipped


class _Book:
    """Keeps each figure as PNG, its numbers as CSV, and gives it back as HTML."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(
        self, name: str, figure: Figure, caption: str, numbers: pd.DataFrame | None = None
    ) -> str:
        """Return `<figure>` with the drawing inside."""
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=160)
        write_file(self._folder / f"{name}.png", picture.getvalue())
        if numbers is not None:
            write_table(self._folder / f"{name}.csv", numbers, index=True)
        drawing = io.BytesIO()
        figure.savefig(drawing, format="svg", metadata={"Date": None})
        data = base64.b64encode(drawing.getvalue()).decode()
        return (
            f'<figure><img alt="{_text(caption)}" src="data:image/svg+xml;base64,{data}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )


def _text(value: object) -> str:
    return html.escape(str(value))


def _page(title: str, sections: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head>\n<body>\n<main>"
        + "\n".join(section for section in sections if section)
        + "</main>\n</body></html>\n"
    )


def _table(rows: Sequence[Sequence[object]], head: Sequence[str] = (), numbers: int = 0) -> str:
    """Return a table whose last `numbers` columns are set to the right."""

    def line(cells: Sequence[object], tag: str) -> str:
        first = len(cells) - numbers
        return "".join(
            f"<{tag}{' class=n' if place >= first else ''}>{_text(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    top = f"<thead><tr>{line(head, 'th')}</tr></thead>" if head else ""
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _header(run: Path, facts: Mapping[str, Any]) -> str:
    split = facts["split"]
    seconds = facts["window_frames"] * _spec(facts).hop_seconds
    return (
        f"<h1>{_text(run.resolve().name)}</h1>"
        f'<p class="soft">InceptionV3 over windows of {seconds:.1f} s, {len(facts["labels"])} '
        f"labels, {len(split['train'])} tracks to train on, seed {facts['seed']}.</p>"
    )


def _spec(facts: Mapping[str, Any]) -> SpectrogramSpec:
    return SpectrogramSpec.from_dict(facts["spec"])


def _headline(facts: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    if not evaluation:
        return (
            '<div class="note">Not evaluated yet: run <code>genre-train evaluate</code>.</div>'
            f"<p>Split: {_text(facts['split']['protocol'])}.</p>"
        )
    protocol = evaluation["protocol"]
    cards = "".join(
        f'<div class="card"><h3>{_text(name)}</h3>'
        f'<div class="number">{result["accuracy_track"]:.1%}</div>'
        f"<p>of {result['tracks']} tracks right, 95 % interval "
        f"{result['interval_track'][0]:.1%} to {result['interval_track'][1]:.1%}</p>"
        f'<p class="soft">{result["accuracy_crop"]:.1%} of single windows. '
        f"Split: {_text(protocol)}.</p></div>"
        for name, result in evaluation["sets"].items()
    )
    absent = [name for name in ("valid", "test") if name not in evaluation["sets"]]
    notes = list(evaluation["notes"]) + [
        f"there is no accuracy on {name}: no track of that list was found" for name in absent
    ]
    return (
        f'<div class="cards">{cards}</div>'
        + "".join(f'<div class="note">{_text(note)}</div>' for note in notes)
        + '<p class="soft">The best epoch was chosen and the temperature fitted on the valid list, '
        "so its numbers flatter; the test list was not looked at while training.</p>"
    )


def _learning(run: Path, book: _Book) -> str:
    path = run / "history.csv"
    if not path.is_file():
        return ""
    history = _read_table(path)
    drawing = book.add(
        "learning_curves",
        figures.learning_curves(history),
        "Loss and share right by epoch. The training loss is on varied, mixed windows with "
        "smoothed labels, so it does not compare with the valid one.",
        history.set_index("epoch"),
    )
    return f'<h2>Learning</h2><div class="figures">{drawing}</div>'


def _set_section(run: Path, name: str, evaluation: Mapping[str, Any], book: _Book) -> str:
    result = evaluation["sets"][name]
    matrix = _read_table(run / "evaluation" / f"confusion_{name}.csv", index=0)
    bins = _read_table(run / "evaluation" / f"reliability_{name}.csv")
    genres = pd.DataFrame(result["genres"])
    drawings = (
        book.add(
            f"confusion_{name}",
            figures.confusion_matrix(matrix),
            f"Tracks of the {name} list: what they are and what they were taken for.",
            matrix,
        ),
        book.add(
            f"genres_{name}",
            figures.genre_bars(genres),
            f"Precision and recall by genre on {name} (number of tracks).",
            genres.set_index("genre"),
        ),
        book.add(
            f"reliability_{name}",
            figures.reliability_diagram(bins),
            f"Whether windows of {name} are right as often as the model is sure; "
            "a dot's size is the number of windows.",
            bins.set_index("temperature"),
        ),
    )
    rows = [
        ("Tracks right", f"{result['accuracy_track']:.1%}"),
        ("Tracks with the genre among the first two", f"{result['top2_track']:.1%}"),
        ("Macro F1", f"{result['macro_f1']:.3f}"),
        ("Single windows right", f"{result['accuracy_crop']:.1%}"),
        (
            "NLL of a window, before and after temperature scaling",
            f"{result['nll_before']:.3f} / {result['nll_after']:.3f}",
        ),
        (
            "Expected calibration error, 15 bins, before and after",
            f"{result['ece_before']:.3f} / {result['ece_after']:.3f}",
        ),
        ("Temperature", f"{evaluation['temperature']:.3f} ({evaluation['temperature_source']})"),
    ]
    if other := result["not_music"]:
        rows += [
            (
                f"Sounds that are not music told ({other['clips']:.0f} clips)",
                f"{other['recall']:.1%}",
            ),
            ("Music taken for not music", f"{other['false_alarms']:.1%}"),
        ]
    mistakes = [
        (wrong["track"], wrong["predicted"], f"{wrong['confidence']:.0%}")
        for wrong in result["mistakes"]
    ]
    table = (
        f"<h3>Most confident mistakes on {_text(name)}</h3>"
        + _table(mistakes, ("track", "taken for", "confidence"), numbers=1)
        if mistakes
        else ""
    )
    return (
        f"<h2>On the {_text(name)} list</h2>"
        f'<p class="soft">Split: {_text(evaluation["protocol"])}.</p>'
        f'{_table(rows, numbers=1)}<div class="figures">{"".join(drawings)}</div>{table}'
    )


def _stream_section(
    run: Path, stream: Mapping[str, Any], facts: Mapping[str, Any], book: _Book
) -> str:
    name, result = stream["set"], stream["result"]
    programme = _read_table(run / "evaluation" / f"stream_{name}_programme.csv")
    decisions = _read_table(run / "evaluation" / f"stream_{name}_decisions.csv")
    after = pd.DataFrame(
        {"seconds": list(result["accuracy_after"]), "right": result["accuracy_after"].values()}
    )
    drawings = (
        book.add(
            f"timeline_{name}",
            figures.timeline(programme, decisions, facts["labels"]),
            "What was played and what a listener was told (the first half hour).",
            decisions,
        ),
        book.add(
            f"seconds_heard_{name}",
            figures.accuracy_by_seconds(result["accuracy_after"]),
            "Share of songs with the right label after so many seconds.",
            after.set_index("seconds"),
        ),
    )
    rows = [
        ("Seconds labelled right", f"{result['right']:.1%}"),
        ("Seconds labelled uncertain", f"{result['uncertain']:.1%}"),
        ("Seconds of music that get a genre", f"{result['claimed_in_music']:.1%}"),
        ("Claimed genres that are right", f"{result['right_of_claimed']:.1%}"),
        ("Expected calibration error, smoothed", f"{result['ece']:.3f}"),
        (
            "Seconds to the right label, median / 95th percentile",
            "never"
            if result["delay_median"] is None
            else f"{result['delay_median']:.1f} / {result['delay_p95']:.1f}",
        ),
        ("Songs that never got the right label", f"{result['never_right']} of {result['songs']}"),
        ("Label changes a minute inside songs", f"{result['changes_per_minute']:.2f}"),
        (
            "Genre claimed on silence",
            f"{result['claimed_on_silence']:.0f} of {result['silence']:.0f} s",
        ),
        (
            "Genre claimed on other sounds between songs",
            f"{result['claimed_on_not_music']:.0f} of {result['not_music']:.0f} s",
        ),
        (
            "Genre claimed on other sounds without music",
            f"{result['claimed_without_music']:.0f} of {result['without_music']:.0f} s",
        ),
        ("Seconds of music called not music", f"{result['not_music_in_music']:.1%}"),
    ]
    settings = ", ".join(f"{key} {value}" for key, value in stream["settings"].items())
    return (
        f"<h2>As a listener gets it: {_text(name)} as a stream</h2>"
        f'<p class="soft">Split: {_text(stream["protocol"])}. {result["songs"]} songs in a seeded '
        f"order, {result['seconds'] / 60:.0f} minutes, played through the daemon's pipeline. "
        f"Decision settings: {_text(settings or 'defaults')}.</p>"
        f'{_table(rows, numbers=1)}<div class="figures">{"".join(drawings)}</div>'
    )


def _robustness_section(path: Path, book: _Book) -> str:
    found = _read_json(path)
    name, ways = found["set"], pd.DataFrame(found["ways"])
    if "not_music" not in ways:  # a table of an earlier version
        ways["not_music"] = None
    drawing = book.add(
        f"robustness_{name}",
        figures.degradations(ways),
        f"Tracks of {name} told right, by the way their sound came in, with 95 % intervals.",
        ways.set_index("way"),
    )
    rows = [
        (
            way.way,
            f"{way.accuracy:.1%}",
            f"{way.nll:.3f}",
            f"{way.ece:.3f}",
            f"{way.same_as_clean:.1%}",
            "" if pd.isna(way.not_music) else f"{way.not_music:.1%}",
        )
        for way in ways.itertuples()
    ]
    head = ("Way in", "Tracks right", "NLL", "ECE", "Same answer as clean", "Told as not music")
    return (
        f"<h2>Through microphones, rooms and radios: {_text(name)}</h2>"
        f'<p class="soft">Split: {_text(found["protocol"])}. {ways["tracks"][0]} tracks through '
        f"audio that was changed before its spectrogram was made.</p>"
        f'{_table(rows, head, numbers=5)}<div class="figures">{drawing}</div>'
    )


def _examples(facts: Mapping[str, Any], tracks: Sequence[Track], book: _Book) -> str:
    trained = set(facts["split"]["train"])
    first_of_genre = {track.genre: track for track in reversed(tracks) if track.name in trained}
    chosen = sorted(first_of_genre.values(), key=lambda track: track.name)[:EXAMPLES]
    if not chosen:
        return ""
    spec = _spec(facts)
    strength = Augmentation.from_dict(facts["settings"]["augmentation"])
    random = np.random.default_rng(facts["seed"])
    examples: list[tuple[str, list[Columns]]] = []
    for track in chosen:
        levels = read_picture(track.path)[:, : facts["window_frames"]]
        window = relative_to_peak(from_levels(levels, spec.top_db), spec.top_db)
        varied = [augment(window, random, spec, strength) for _ in range(VARIATIONS)]
        examples.append((track.name, [window, *varied]))
    drawing = book.add(
        "spectrograms",
        figures.spectrogram_examples(examples, spec.top_db),
        "Windows as they are (left) and varied as in training; time to the right, "
        f"{spec.n_mels} mel bands upwards, {spec.top_db:g} dB from dark to light.",
    )
    return f'<h2>What the network sees</h2><div class="figures">{drawing}</div>'


def _left_out(facts: Mapping[str, Any], skipped: Sequence[Skipped]) -> str:
    missing = facts["split"]["missing"]
    parts = []
    if missing:
        names = ", ".join(missing[:LISTED]) + (" …" if len(missing) > LISTED else "")
        parts.append(
            f"<details><summary>{len(missing)} tracks of the lists were not found</summary>"
            f"<p>{_text(names)}</p></details>"
        )
    if skipped:
        rows = [(entry.path, entry.reason) for entry in skipped[:LISTED]]
        parts.append(f"<h3>{len(skipped)} files were skipped</h3>" + _table(rows, ("file", "why")))
    if not parts:
        parts.append("<p>Nothing: every file was usable and every listed track was there.</p>")
    return "<h2>Left out</h2>" + "".join(parts)


def _how_it_was_made(facts: Mapping[str, Any]) -> str:
    settings = [
        (name, value) for name, value in facts["settings"].items() if name != "augmentation"
    ]
    settings += [
        (f"augmentation {name}", value) for name, value in facts["settings"]["augmentation"].items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        "<h2>How it was made</h2>"
        f"<pre>{_text(facts['command'])}</pre>"
        f"<p>Commit {_text(facts['git'] or 'unknown')}; {_text(versions)}; "
        f"{facts['train_seconds'] / 60:.0f} minutes of training.</p>"
        f"<details><summary>All settings</summary>{_table(settings)}</details>"
    )
