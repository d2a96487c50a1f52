"""The one place that knows a setting: its name, type, default, limits and sentence of help.

A setting has the same name everywhere: ``hop_seconds`` in a TOML file, ``--hop-seconds`` on the
command line and ``GENRE_STREAM_HOP_SECONDS`` in the environment. Later layers win: defaults,
``/etc/genre-stream/config.toml``, ``~/.config/genre-stream/config.toml``, the file of ``--config``,
the environment, the command line.

Text in a file is one value, and several stand in a list. A variable of the environment that means a
list is split as a shell would, or read as a JSON array; one that is empty gives nothing.
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from streamer.system.urls import normalise_origin, redact

ENVIRONMENT_PREFIX = "GENRE_STREAM_"
CONFIG_VARIABLE = "GENRE_STREAM_CONFIG"
SYSTEM_CONFIG = Path("/etc/genre-stream/config.toml")

WHAT_TO_HEAR = ("device", "source")
"""Settings that replace each other: who says what to hear in one layer means exactly that."""


class SettingsError(Exception):
    """One sentence that names where a setting stands, its name and value, and what is wrong."""


def _words(value: object) -> object:
    """Take a list as it is and text as one word."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str) for word in words):
        raise ValueError("should be text in quotes, or a list of such")
    if not all(words):
        raise ValueError("should not be empty")
    return words


def _split(text: str) -> object:
    """Split text as a shell would, or read it as a JSON array."""
    return json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)


def _file(value: object) -> Path:
    if not isinstance(value, str | Path) or value == "":
        raise ValueError("should be the path of a file")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError("there is no such home folder") from None


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
File = Annotated[Path, BeforeValidator(_file)]


def _setting(default: object, group: str, metavar: str, help_text: str, **limits: Any) -> Any:
    return Field(
        default,
        description=help_text,
        json_schema_extra={"group": group, "metavar": metavar},
        **limits,
    )


HEAR, MODEL, DECIDE, SERVE, KEEP = (
    "what to hear",
    "the model",
    "decisions (where not given, the model's own settings hold)",
    "serving",
    "keeping and logging",
)


class Settings(BaseSettings):
    """Everything that a person may set, checked."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    device: Words = _setting(
        (),
        HEAR,
        "[NAME=]DEVICE",
        "a microphone: 'mic' (the default input), 'loopback' (what the computer is playing), "
        "an index, or a part of a device's name; may be repeated and given a name",
    )
    source: Words = _setting(
        (),
        HEAR,
        "[NAME=]LOCATION",
        "a file, an internet stream or playlist (http, https, rtsp, udp), '-' for standard input, "
        "or 'demo'; may be repeated and given a name",
    )
    loop: bool = _setting(False, HEAR, "", "start files again when they end")
    fast: bool = _setting(False, HEAR, "", "read files as fast as possible, not in real time")
    rate: int | None = _setting(
        None,
        HEAR,
        "HZ",
        "sample rate of raw s16le samples on standard input; without it a container is expected",
        ge=8000,
        le=192_000,
    )
    channels: int | None = _setting(
        None, HEAR, "N", "channels of raw samples on standard input", ge=1, le=8
    )

    model: File | None = _setting(None, MODEL, "FILE", "model file; without it the embedded one")
    threads: int = _setting(1, MODEL, "N", "threads that one inference may use", ge=1, le=64)
    hop_seconds: float = _setting(
        1.0, MODEL, "S", "seconds of audio between two predictions", ge=0.1, le=60.0
    )

    smoothing: Literal["hmm", "ema", "none"] | None = _setting(
        None, DECIDE, "KIND", "Bayesian filter, moving average, or each window for itself"
    )
    silence_dbfs: float | None = _setting(
        None, DECIDE, "DBFS", "level under which there is silence", ge=-120, le=0
    )
    silence_hysteresis_db: float | None = _setting(
        None, DECIDE, "DB", "rise above that level that ends silence", ge=0, le=60
    )
    dwell_seconds: float | None = _setting(
        None, DECIDE, "S", "mean time for which hmm expects a genre to go on", ge=1, le=86_400
    )
    evidence_weight: float | None = _setting(
        None, DECIDE, "FACTOR", "weight of each window's evidence in hmm", ge=0.01, le=10
    )
    ema_seconds: float | None = _setting(
        None, DECIDE, "S", "time constant of the moving average", ge=0.1, le=3600
    )
    min_confidence: float | None = _setting(
        None, DECIDE, "P", "probability from which a genre is claimed", ge=0, le=1
    )
    min_margin: float | None = _setting(
        None, DECIDE, "P", "least lead of the first genre over the second", ge=0, le=1
    )
    confidence_hysteresis: float | None = _setting(
        None, DECIDE, "P", "fall under min_confidence that a claim survives", ge=0, le=1
    )
    margin_hysteresis: float | None = _setting(
        None, DECIDE, "P", "fall under min_margin that a claim survives", ge=0, le=1
    )
    look_back_seconds: float | None = _setting(
        None, DECIDE, "S", "how far back the boundary of a segment may still move", ge=0, le=600
    )

    host: str = _setting("127.0.0.1", SERVE, "ADDRESS", "address to serve on", min_length=1)
    port: int = _setting(
        8765, SERVE, "PORT", "port to serve on; 0 takes any free one", ge=0, le=65535
    )
    token_file: File | None = _setting(
        None, SERVE, "FILE", "file with the token that clients must know"
    )
    tls_cert: File | None = _setting(None, SERVE, "FILE", "certificate chain (PEM) for TLS")
    tls_key: File | None = _setting(None, SERVE, "FILE", "private key (PEM) for TLS")
    origin: Words = _setting(
        (),
        SERVE,
        "ORIGIN",
        "origin of a web page elsewhere that may connect, such as https://example.org; "
        "may be repeated",
    )
    max_clients: int = _setting(
        500, SERVE, "N", "WebSocket clients that are let in at once", ge=1, le=100_000
    )

    history: File | None = _setting(
        None, KEEP, "FILE.db", "keep segments and minutes in this SQLite file"
    )
    retention_days: float = _setting(
        90.0, KEEP, "DAYS", "days that the history is kept", gt=0, le=36_500
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", KEEP, "LEVEL", "least important message that is logged"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_what_only_toml_can_say(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        # A bool is an int of Python's.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("should not be true or false")
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and "\0" in text for text in texts):
            raise ValueError("should have no NUL character")
        return value

    @field_validator("host")
    @classmethod
    def _refuse_impossible_names(cls, value: str) -> str:
        try:
            value.encode("idna")
        except UnicodeError:
            raise ValueError("is neither the name nor the address of a computer") from None
        return value

    @field_validator("origin")
    @classmethod
    def _refuse_what_no_browser_sends(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            normalise_origin(origin)
        return value

    @field_validator("history")
    @classmethod
    def _refuse_to_forget(cls, value: Path | None) -> Path | None:
        if value == Path(":memory:"):
            raise ValueError("nobody could read a history that is kept in memory; name a file")
        return value

    @property
    def decision(self) -> dict[str, object]:
        """The decision settings that were given, to be laid over the model's own."""
        return {
            name: value
            for name, field in type(self).model_fields.items()
            if extra(field, "group") == DECIDE and (value := getattr(self, name)) is not None
        }

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is given: `load` merges the layers, because it must know each origin."""
        return (init_settings,)


@dataclass(frozen=True, slots=True)
class Layer:
    """The settings that one place gives."""

    origin: str
    """A path, ``environment`` or ``command line``."""
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings that hold, and where each of them was given."""

    settings: Settings
    origins: Mapping[str, str]
    """Name of a setting -> the origin of its layer; a name that is missing has its default."""


def load(
    command_line: Mapping[str, object],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Effective:
    """Merge every layer into the settings that hold.

    Parameters
    ----------
    command_line
        Values given as options; they win over all other layers.
    config
        A TOML file that must exist, read after the system's and the user's.
    environment
        Stands in for ``os.environ``.

    Raises
    ------
    SettingsError
        A file cannot be read, or a setting is unknown, of a wrong value, or contradicts another.
    """
    environment = os.environ if environment is None else environment
    layers = [_file_layer(path) for path in config_files(config, environment)]
    layers.append(_environment_layer(environment))
    layers.append(Layer("command line", command_line))
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        if any(name in layer.values for name in WHAT_TO_HEAR):
            for name in WHAT_TO_HEAR:
                values.pop(name, None)
                origins.pop(name, None)
        for name, value in layer.values.items():
            _known(layer.origin, name, value)
            values[name] = value
            origins[name] = layer.origin
    try:
        settings = Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError(_sentence(error, values, origins)) from None
    effective = Effective(settings, origins)
    _refuse_contradictions(effective)
    return effective


def config_files(config: Path | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the TOML files to read, weakest first; only a file that was asked for must exist.

    The service's own settings may hold passwords, so an ordinary user need not be able to read
    them, and does without.
    """
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    for path in (SYSTEM_CONFIG, Path(home) / "genre-stream" / "config.toml"):
        if os.access(path, os.R_OK):
            yield path
    asked = config or environment.get(CONFIG_VARIABLE)
    if asked:
        try:
            yield _file(asked)
        except ValueError as error:
            raise SettingsError(f"{asked}: {error}") from None


def _file_layer(path: Path) -> Layer:
    try:
        if not path.is_file():
            raise SettingsError(f"{path}: no such settings file")
        values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    return Layer(str(path), values)


def _environment_layer(environment: Mapping[str, str]) -> Layer:
    given = {
        name: value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX) and name != CONFIG_VARIABLE
    }
    for name, value in given.items():
        _known("environment", name.removeprefix(ENVIRONMENT_PREFIX).lower(), value)
    source = EnvSettingsSource(Settings, env_prefix=ENVIRONMENT_PREFIX)
    # A variable that is empty gives nothing.
    source.env_vars = {name.lower(): value for name, value in given.items() if value}
    values = source()
    for name, value in values.items():
        if Settings.model_fields[name].annotation == tuple[str, ...]:
            try:
                values[name] = _split(value)
            except ValueError as error:
                raise SettingsError(f"{_shown('environment', name, value)}: {error}") from None
    return Layer("environment", values)


def option(name: str) -> str:
    """Return a setting's option on the command line."""
    return "--" + name.replace("_", "-")


def _shown(origin: str, name: str, value: object) -> str:
    """Spell a setting as its place does: ``--port 1``, ``GENRE_STREAM_PORT=1``, ``F: port = 1``."""
    legible = isinstance(value, str) and value and value.isprintable()
    text = redact(str(value) if legible else json.dumps(value, default=str))
    if origin == "command line":
        return f"{option(name)} {text}"
    if origin == "environment":
        return f"{ENVIRONMENT_PREFIX}{name.upper()}={text}"
    return f"{origin}: {name} = {text}"


def _known(origin: str, name: str, value: object) -> None:
    if name in Settings.model_fields:
        return
    shown = _shown(origin, name, value)
    raise SettingsError(f"{shown}: unknown setting{suggestion(name, Settings.model_fields)}")


def suggestion(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Return `` (did you mean port?)`` for the known name nearest to `name`, or nothing."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {nearest[0]}?)" if nearest else ""


def _sentence(
    error: ValidationError, values: Mapping[str, object], origins: Mapping[str, str]
) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0])
    complaint = first["msg"].removeprefix("Value error, ")
    return f"{_shown(origins[name], name, values[name])}: {complaint[:1].lower()}{complaint[1:]}"


def _refuse_contradictions(effective: Effective) -> None:
    settings, origins = effective.settings, effective.origins
    for given, needed in (
        ("tls_cert", "tls_key"),
        ("tls_key", "tls_cert"),
        ("channels", "rate"),
    ):
        if getattr(settings, given) is not None and getattr(settings, needed) is None:
            shown = _shown(origins[given], given, getattr(settings, given))
            raise SettingsError(f"{shown}: needs {needed} as well")
    raw = [text for text in settings.source if text == "-" or text.endswith("=-")]
    if settings.rate is not None and not raw:
        shown = _shown(origins["rate"], "rate", settings.rate)
        raise SettingsError(f"{shown}: only raw samples on standard input (--source -) have a rate")
    if len(raw) > 1:
        shown = _shown(origins["source"], "source", list(settings.source))
        raise SettingsError(f"{shown}: standard input can be heard only once")


def fields_by_group() -> dict[str, list[tuple[str, FieldInfo]]]:
    """Return every setting under its heading, in the order of the schema."""
    groups: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        groups.setdefault(extra(field, "group"), []).append((name, field))
    return groups


def extra(field: FieldInfo, key: Literal["group", "metavar"]) -> str:
    """Return a setting's heading or the placeholder of its value."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra[key])


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(redact(str(value)), ensure_ascii=False)


def describe(effective: Effective) -> str:
    """Write the settings that hold as TOML, each with its origin, secrets masked."""
    lines = []
    for name, field in Settings.model_fields.items():
        value = getattr(effective.settings, name)
        text = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        unsaid = "the model's" if extra(field, "group") == DECIDE else "default"
        lines.append(f"{text:<40}  # {effective.origins.get(name, unsaid)}")
    if os.access(SYSTEM_CONFIG, os.F_OK) and not os.access(SYSTEM_CONFIG, os.R_OK):
        lines.append(f"# {SYSTEM_CONFIG} may not be read by this user")
    return "\n".join(lines) + "\n"


def sample_config() -> str:
    """Write a commented TOML file with every setting, its limits and its default."""
    lines = [
        "# Settings of genre-stream. To change one, remove the '#' before its name. Where there is",
        "# a default, it is shown; else an example is. The same names work as options",
        "# (--hop-seconds) and in the environment (GENRE_STREAM_HOP_SECONDS). A list is an option",
        "# that is repeated, and in the environment words with blanks between them.",
        "# 'genre-stream --print-config' shows what holds, and where it was said.",
    ]
    decision = _embedded_decision()
    for group, fields in fields_by_group().items():
        lines += ["", f"## {group}"]
        if group == DECIDE:
            lines += ["", "# Shown are those of the embedded model."]
        for name, field in fields:
            lines += [
                "",
                *textwrap.wrap(_comment(field), 98, initial_indent="# ", subsequent_indent="# "),
            ]
            shown = _toml(decision[name]) if group == DECIDE else _example(name, field)
            lines.append(f"#{name} = {shown}")
    return "\n".join(lines) + "\n"


def _embedded_decision() -> Mapping[str, object]:
    """Return the decision settings that hold where neither settings nor another model are given."""
    from streamer.core.decision import DecisionSettings
    from streamer.core.model import Classifier

    own = Classifier.load().contract.decision
    return asdict(DecisionSettings.from_mapping(own))


def _example(name: str, field: FieldInfo) -> str:
    """Return the default, or what might stand in its place where there is none."""
    return _EXAMPLES[name] if field.default in (None, ()) else _toml(field.default)


_EXAMPLES = {
    "device": '["mic"]',
    "source": '["radio=https://radio.example/stream.mp3", "hall=rtsp://camera.example/audio"]',
    "rate": "44100",
    "channels": "2",
    "model": '"/opt/genre-stream/my-model.onnx"',
    "token_file": '"/etc/genre-stream/token"',
    "tls_cert": '"/etc/genre-stream/cert.pem"',
    "tls_key": '"/etc/genre-stream/key.pem"',
    "origin": '["https://radio.example"]',
    "history": '"/var/lib/genre-stream/history.db"',
}
"""What the sample file shows for a setting that has no default."""


def _comment(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in signs.items()
        if hasattr(limit, attribute)
    ]
    found += [repr(word) for word in choices(field)]
    return f"{field.description} ({', '.join(found)})" if found else str(field.description)


def choices(field: FieldInfo) -> list[str]:
    """Return the words that a setting may be, or none if it is free."""
    kinds = get_args(field.annotation)
    literals = [kind for kind in (field.annotation, *kinds) if get_origin(kind) is Literal]
    return [word for literal in literals for word in get_args(literal)]


if __name__ == "__main__":
    print(sample_config(), end="")
