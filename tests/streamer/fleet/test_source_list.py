from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamer.fleet.source_list import SourceList, read_source_list
from streamer.system.commandline import UserError

BROKER = {"mqtt": "mqtt://broker"}


@pytest.fixture(autouse=True)
def no_settings_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def read(path: Path, text: str, **given: object) -> SourceList:
    path.write_text(text)
    return read_source_list(path, {**BROKER, **given})


def problem(path: Path, text: str, **given: object) -> str:
    with pytest.raises(UserError) as error:
        read(path, text, **given)
    return str(error.value).replace(str(path), "LIST")


def test_toml_and_csv_name_the_same_sources(tmp_path: Path) -> None:
    toml = read(
        tmp_path / "list.toml",
        'charset = ["jazz=cp1251"]\nsource = ["jazz=http://one/a?b=c,d", "http://two/live"]\n',
    )
    table = read(
        tmp_path / "list.csv",
        'name,source,charset\njazz,"http://one/a?b=c,d",cp1251\n,http://two/live,\n',
    )
    assert toml.sources == table.sources
    assert list(toml.sources) == ["jazz", "two/live"]
    assert [each.charset for each in toml.sources.values()] == ["cp1251", None]


def test_settings_of_a_csv_list_come_from_a_file_and_the_command_line(tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text('hop_seconds = 2.5\nmqtt = "mqtt://elsewhere"\ndevice = "mic"\n')
    path = tmp_path / "list.csv"
    path.write_text("source\nhttp://one/\n")
    settings = read_source_list(path, {"loop": True}, config).settings
    assert (settings.hop_seconds, settings.loop) == (2.5, True)
    assert settings.mqtt
    assert settings.mqtt.host == "elsewhere"


def test_tens_of_thousands_of_sources_are_read(tmp_path: Path) -> None:
    urls = [f"station{number}=http://radio/{number}" for number in range(30_000)]
    source_list = read(tmp_path / "list.toml", f"source = {json.dumps(urls)}\n")
    assert len(source_list.sources) == 30_000
    assert source_list.settings.source == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'source = ["a=http://one/", "a=http://two/"]',
            "two sources are named 'a'; give one another name: write NAME=... before its device or "
            "location",
        ),
        ("", 'LIST names no source; write source = ["NAME=LOCATION", ...]'),
        ('source = "-"', "source -: a fleet has no standard input; name a stream"),
        (
            'device = "mic"',
            "device mic: a fleet listens to streams and files, since a device belongs to one "
            "machine; run genre-stream there",
        ),
        (
            'sorce = "http://one/"',
            "LIST: sorce = http://one/: unknown setting (did you mean source?)",
        ),
    ],
)
def test_what_is_wrong_with_a_list_in_toml_is_said(tmp_path: Path, text: str, said: str) -> None:
    assert problem(tmp_path / "list.toml", text + "\n") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "url\nhttp://one/\n",
            "LIST: the first line is 'url'; it should name the columns: source, and if you like "
            "name and charset",
        ),
        (
            "source\na,b\n",
            "LIST line 2: more values than columns; put values with commas in quotes",
        ),
        ("source\n", "LIST names no source; write a line for each"),
        ("name,source\nx,\n", "LIST line 2: no source; name a file or a stream"),
        (
            "name,source\na/b,http://one/\n",
            "LIST line 2: 'a/b' cannot be a name; it has 1 to 64 characters, none of "
            "/ \\ : = ? # @",
        ),
    ],
)
def test_what_is_wrong_with_a_list_in_csv_is_said(tmp_path: Path, text: str, said: str) -> None:
    assert problem(tmp_path / "list.csv", text) == said


def test_a_list_that_is_missing_or_names_no_broker_is_said(tmp_path: Path) -> None:
    for name, said in (("no.toml", "no such settings file"), ("no.csv", "No such file")):
        with pytest.raises(UserError, match=said):
            read_source_list(tmp_path / name, BROKER)
    path = tmp_path / "list.toml"
    path.write_text('source = "http://one/"\n')
    with pytest.raises(UserError, match="a fleet tells a broker what it hears: write mqtt"):
        read_source_list(path, {})
