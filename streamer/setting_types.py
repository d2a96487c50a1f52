"""The types of settings: how their values are written in each layer, and what they must be."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from streamer.core.broker import Broker
from streamer.core.rules import Rule
from streamer.system.charsets import check_charset
from streamer.system.urls import normalise_origin


def _string_list(value: object) -> object:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(isinstance(item, str) for item in strings):
        raise ValueError("should be text in quotes, or a list of such")
    if not all(strings):
        raise ValueError("should not be empty")
    return strings


def file_path(value: object) -> Path:
    """Return the path of a file, in which ``~`` is the home folder; `ValueError` for no text."""
    if not isinstance(value, str | Path) or value == "":
        raise ValueError("should be the path of a file")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder") from None


def _pairs(value: object) -> object:
    """Return a table; options and the environment give one as strings such as ``rock=guitar``."""
    if isinstance(value, Mapping):
        return dict(value)
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(
        isinstance(word, str) and "=" in word for word in words
    ):
        raise ValueError("should be a table, or a list of texts such as 'name=value'")
    pairs = dict(word.split("=", 1) for word in words)
    return {name: False if text == "false" else text for name, text in pairs.items()}


def _colour(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch("#[0-9a-fA-F]{6}", value):
        raise ValueError("should be a colour such as '#3f90da'")
    return value.lower()


def _label_name(value: object) -> object:
    if value is not False and (not isinstance(value, str) or not value.strip()):
        raise ValueError("should be a name, or false")
    return value


def target(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port``; `ValueError` if it is something else.

    Examples
    --------
    >>> target("[::1]:9000")
    ('::1', 9000)
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError("should be host:port, with a port from 1 to 65535")
    return host.strip("[]"), int(port)


def _targets(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        target(text)
    return value


def _host(value: str) -> str:
    try:
        value.encode("idna")
    except UnicodeError:
        raise ValueError("is neither the name nor the address of a computer") from None
    return value


def _charsets(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        check_charset(text.rpartition("=")[2])
    return value


def _origins(value: tuple[str, ...]) -> tuple[str, ...]:
    for text in value:
        normalise_origin(text)
    return value


def _history_file(value: Path) -> Path:
    if value == Path(":memory:"):
        raise ValueError("nobody could read a history that is kept in memory; name a file")
    return value


StringList = Annotated[tuple[str, ...], BeforeValidator(_string_list)]
Charsets = Annotated[StringList, AfterValidator(_charsets)]
Host = Annotated[str, AfterValidator(_host)]
Origins = Annotated[StringList, AfterValidator(_origins)]
File = Annotated[Path, BeforeValidator(file_path)]
HistoryFile = Annotated[File, AfterValidator(_history_file)]
Labels = Annotated[
    dict[str, Annotated[str | Literal[False], BeforeValidator(_label_name)]],
    BeforeValidator(_pairs),
]
Colours = Annotated[dict[str, Annotated[str, BeforeValidator(_colour)]], BeforeValidator(_pairs)]
Rules = Annotated[tuple[Rule, ...], BeforeValidator(lambda value: rule_tables(value))]
MqttBroker = Annotated[Broker, BeforeValidator(lambda value: broker_table(value))]
Targets = Annotated[StringList, AfterValidator(_targets)]


def rule_tables(value: object) -> object:
    """Return the tables of rules, with ``for`` as Python can name it and lists where one may do."""
    if isinstance(value, tuple):  # of rules
        return value
    if not isinstance(value, list) or not all(isinstance(table, Mapping) for table in value):
        raise ValueError("should be tables, each under [[alerts]]")
    rules = []
    for table in value:
        if "duration" in table:
            raise ValueError("duration is unknown; write for")
        renamed = {"duration" if key == "for" else key: item for key, item in table.items()}
        for key in ("genres", "sources", "notify", "run"):
            if key in renamed:
                renamed[key] = _string_list(renamed[key])
        rules.append(renamed)
    names = [str(rule.get("name")) for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two rules have the name {name!r}")
    return tuple(rules)


def broker_table(value: object) -> object:
    """Return the table of a broker that may be given as its address alone."""
    return {"url": value} if isinstance(value, str) else value


def texts(value: object) -> Iterator[str]:
    """Yield every string of a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
