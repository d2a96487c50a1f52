"""The list of a fleet's sources: a TOML file of settings, or a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from streamer import settings as schema
from streamer.inputs import InputError, SourceSettings, name_conflict, source_settings
from streamer.settings import Settings
from streamer.sources.address import default_name, split_name
from streamer.system.console import unreadable_reason

COLUMNS = ("name", "source", "charset")
"""Columns of a CSV file; only `source` is needed."""


@dataclass(frozen=True, slots=True)
class SourceList:
    """What a fleet is asked to do."""

    settings: Settings
    """Those of the model, the decisions and the broker; the sources are left out."""
    sources: Mapping[str, SourceSettings]
    """The sources by their names."""


def read_source_list(
    path: Path, given: Mapping[str, object], config: Path | None = None
) -> SourceList:
    """Read a list; `given` are settings of the command line, `config` those beside a CSV file.

    `UserError` is raised if a file cannot be read, a setting or a source is wrong or of no use in a
    fleet, or two sources have the same name.
    """
    if path.suffix.lower() == ".csv":
        rows = list(_rows(path))
        own: dict[str, object] = {"source": [text for text, _ in rows]}
        if charsets := [charset for _, charset in rows if charset]:
            own["charset"] = charsets
        settings = schema.load({**given, **own}, config=config).settings
    elif config is not None:
        raise InputError(f"--config {config} goes with a list in CSV; {path} has the settings too")
    else:
        settings = schema.load(given, config=path).settings
    if settings.device:
        raise InputError(
            f"device {settings.device[0]}: a fleet listens to streams and files, since a device "
            "belongs to one machine; run genre-stream there"
        )
    sources: dict[str, SourceSettings] = {}
    for each in source_settings(settings):
        name, location = split_name(each.text)
        if location == "-":
            raise InputError(f"source {each.text}: a fleet has no standard input; name a stream")
        name = name or ("demo" if location == "demo" else default_name(location))
        if name in sources:
            raise name_conflict(name)
        sources[name] = each
    if not sources:
        how = (
            "a line for each"
            if path.suffix.lower() == ".csv"
            else 'source = ["NAME=LOCATION", ...]'
        )
        raise InputError(f"{path} names no source; write {how}")
    if settings.mqtt is None:
        raise InputError(
            'a fleet tells a broker what it hears: write mqtt = "mqtt://HOST" into the settings, '
            "or say --mqtt mqtt://HOST"
        )
    return SourceList(settings.model_copy(update={"source": (), "charset": ()}), sources)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield, for each row of a CSV file, the settings `source` and `charset` (may be empty)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or ())
            if "source" not in columns or not set(columns) <= set(COLUMNS):
                raise InputError(
                    f"{path}: the first line is {','.join(columns)!r}; it should name the columns: "
                    "source, and if you like name and charset"
                )
            for row in reader:
                yield _row(f"{path} line {reader.line_num}", row)
    except csv.Error as error:
        raise InputError(f"{path}: not CSV: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {unreadable_reason(error)}") from None


def _row(place: str, row: Mapping[str, str | None]) -> tuple[str, str]:
    if None in row:  # where DictReader puts what is beyond the columns
        raise InputError(f"{place}: more values than columns; put values with commas in quotes")
    name, location, charset = ((row.get(column) or "").strip() for column in COLUMNS)
    if not location:
        raise InputError(f"{place}: no source; name a file or a stream")
    text = f"{name}={location}" if name else location
    if name and split_name(text) != (name, location):
        raise InputError(
            f"{place}: {name!r} cannot be a name; it has 1 to 64 characters, none of / \\ : = ? # @"
        )
    return text, charset and f"{name or default_name(location)}={charset}"
