"""The typed schema of all settings, and the layers that their values come from.

A setting has the same name everywhere: ``hop_seconds`` in a TOML file, ``--hop-seconds`` on the
command line and ``GENRE_STREAM_HOP_SECONDS`` in the environment. Each layer overrides the ones
before: defaults, those that ``response`` gives, ``/etc/genre-stream/config.toml``,
``~/.config/genre-stream/config.toml``, the file given by ``--config``, the environment, the command
line.

For a setting that takes a list, a file may give one string or an array of strings. A variable of
the environment is split as a shell would split it, or read as a JSON array if it begins with a
bracket; an empty variable counts as not set.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from streamer.core.arithmetic import Choice
from streamer.core.decision_settings import (
    RESPONSE_HOP_SECONDS,
    DecisionSettings,
    Effort,
    Response,
    Smoothing,
)
from streamer.setting_types import (
    Charsets,
    Colours,
    File,
    HistoryFile,
    Host,
    Labels,
    MqttBroker,
    Origins,
    Rules,
    StringList,
    Targets,
    broker_table,
    file_path,
    texts,
)
from streamer.system.commandline import UserError
from streamer.system.urls import redact

ENVIRONMENT_PREFIX = "GENRE_STREAM_"
CONFIG_VARIABLE = "GENRE_STREAM_CONFIG"
SYSTEM_CONFIG = Path("/etc/genre-stream/config.toml")

SOURCE_SETTINGS = ("device", "source")
"""A layer that gives one of these replaces what lower layers give for both."""

FILE_ONLY = ("alerts",)
"""Settings that have no option and no variable."""

INPUTS, MODEL, DECISIONS, SERVING, OUTPUTS, RECORDS = (
    "what to hear",
    "the model",
    "decisions (a setting that is not given has the model's own value)",
    "serving",
    "telling others",
    "keeping and logging",
)
"""Headings under which the help and the sample file list the settings."""


class SettingsError(UserError):
    """One sentence that names the setting, its value, where it was given and what is wrong."""


def _setting(group: str, default: object, metavar: str, help_text: str, **limits: Any) -> Any:
    own: JsonDict = {"group": group, "metavar": metavar}
    return Field(default, description=help_text, json_schema_extra=own, **limits)


_input, _model, _serving, _output, _record = (
    partial(_setting, group) for group in (INPUTS, MODEL, SERVING, OUTPUTS, RECORDS)
)


def _decision_setting(name: str) -> Any:
    """Return the field for a setting of `DecisionSettings`; None means the model's own value."""
    metadata = DecisionSettings.__dataclass_fields__[name].metadata
    limits = dict(zip(("ge", "le"), metadata.get("range", ()), strict=False))
    return _setting(DECISIONS, None, metadata["metavar"], metadata["help"], **limits)


class Settings(BaseModel):
    """Validated settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    device: StringList = _input(
        (),
        "[NAME=]DEVICE",
        "a microphone: 'mic' (the default input), 'loopback' (what the computer is playing), "
        "an index, or a part of a name that --list-devices shows, also of a source of PulseAudio "
        "or PipeWire; may be repeated and given a name",
    )
    source: StringList = _input(
        (),
        "[NAME=]LOCATION",
        "a file, an internet stream or playlist (http, https, rtsp, udp), '-' for standard input, "
        "or 'demo'; may be repeated and given a name",
    )
    wait: bool = _input(
        False, "", "wait for devices that are missing or busy at the start; the service does"
    )
    charset: Charsets = _input(
        (),
        "[NAME=]CHARSET",
        "encoding of the titles of all radios, or of the source with this name, such as cp1251; "
        "without it it is found out; may be repeated",
    )
    loop: bool = _input(
        False, "", "start files again when they end, as 'demo' does unless it is read with fast"
    )
    follow: bool = _input(
        False, "", "wait for more at the end of a file, which another program is still writing"
    )
    fast: bool = _input(False, "", "read files as fast as possible, not in real time")
    rate: int | None = _input(
        None,
        "HZ",
        "sample rate of raw s16le samples on standard input; without it a container is expected",
        ge=8000,
        le=192_000,
    )
    channels: int | None = _input(
        None, "N", "channels of raw samples on standard input", ge=1, le=8
    )

    model: File | None = _model(None, "FILE", "model file; without it the embedded one")
    threads: int = _model(1, "N", "threads that one inference may use", ge=1, le=64)
    arithmetic: Choice = _model(
        "auto",
        "KIND",
        "how a model file with 8-bit integers is computed: as is faster on this processor, which "
        "is measured at the start, or always alike; both answer nearly the same",
    )
    hop_seconds: float = _model(
        1.0, "S", "seconds of audio between two predictions", ge=0.1, le=60.0
    )
    effort: Effort | None = _model(
        None,
        "EFFORT",
        "full runs the network for every prediction, saving only where something may have changed; "
        "without it full, and saving for as long as there are too many sources for that",
    )
    response: Response = _model(
        "normal",
        "KIND",
        "calm claims less and errs less, fast follows changes sooner and errs more, normal is as "
        "the model suggests; hop_seconds and decision settings that are given take precedence",
    )

    labels: Labels = _model(
        {},
        "LABEL=NAME",
        "names of one's own for the model's labels: labels with the same name are decided as one, "
        "and false drops a label from what may be claimed; as an option it may be repeated",
    )
    colours: Colours = _model(
        {},
        "LABEL=#RRGGBB",
        "colours of labels on the dashboard and wherever else they are shown; as an option it may "
        "be repeated",
    )

    smoothing: Smoothing | None = _decision_setting("smoothing")
    silence_dbfs: float | None = _decision_setting("silence_dbfs")
    silence_hysteresis_db: float | None = _decision_setting("silence_hysteresis_db")
    dwell_seconds: float | None = _decision_setting("dwell_seconds")
    evidence_weight: float | None = _decision_setting("evidence_weight")
    memory_seconds: float | None = _decision_setting("memory_seconds")
    ema_seconds: float | None = _decision_setting("ema_seconds")
    min_confidence: float | None = _decision_setting("min_confidence")
    min_margin: float | None = _decision_setting("min_margin")
    confidence_hysteresis: float | None = _decision_setting("confidence_hysteresis")
    margin_hysteresis: float | None = _decision_setting("margin_hysteresis")
    look_back_seconds: float | None = _decision_setting("look_back_seconds")

    host: Host = _serving("127.0.0.1", "ADDRESS", "address to serve on", min_length=1)
    port: int = _serving(8765, "PORT", "port to serve on; 0 takes any free one", ge=0, le=65535)
    token_file: File | None = _serving(None, "FILE", "file with the token that clients must know")
    tls_cert: File | None = _serving(None, "FILE", "certificate chain (PEM) for TLS")
    tls_key: File | None = _serving(None, "FILE", "private key (PEM) for TLS")
    origin: Origins = _serving(
        (),
        "ORIGIN",
        "origin of a web page elsewhere that may connect, such as https://example.org; "
        "may be repeated",
    )
    max_clients: int = _serving(
        500, "N", "WebSocket clients that are let in at once", ge=1, le=100_000
    )

    mqtt: MqttBroker | None = _output(
        None,
        "URL",
        "MQTT broker to tell, as mqtt[s]://[user:password@]host[:port]; in a file also a table "
        "with url, user, password_file, ca_file, cert_file, key_file, prefix, node, home_assistant",
    )
    mqtt_predictions: bool = _output(False, "", "send the broker every prediction, too")
    osc: Targets = _output((), "HOST:PORT", "send OSC messages there by UDP; may be repeated")

    alerts: Rules = _output(
        (),
        "TABLES",
        "rules that notify people or start programs; only in files, see the examples at the end",
    )

    history: HistoryFile | None = _record(
        None, "FILE.db", "keep segments and minutes in this SQLite file"
    )
    retention_days: float = _record(90.0, "DAYS", "days that the history is kept", gt=0, le=36_500)
    log_level: Literal["debug", "info", "warning", "error"] = _record(
        "info", "LEVEL", "least important message that is logged"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans_and_nul(cls, value: object, info: ValidationInfo) -> object:
        assert info.field_name is not None
        # In Python bool is a subclass of int, and pydantic would take True for 1.
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("should not be true or false")
        if "\0" in "".join(texts(value)):
            raise ValueError("should have no NUL character")
        return value

    @property
    def decision(self) -> dict[str, object]:
        """The decision settings that were given; they override the model's own."""
        names = {field.name for field in dataclasses.fields(DecisionSettings)}
        return self.model_dump(include=names, exclude_none=True)


@dataclass(frozen=True, slots=True)
class Effective:
    """The merged settings, and where each of them was given."""

    settings: Settings
    origins: Mapping[str, str]
    """Setting -> a path, ``environment`` or ``command line``; missing where it has its default."""


def load(
    command_line: Mapping[str, object],
    *,
    config: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Effective:
    """Read and merge all layers.

    Parameters
    ----------
    command_line
        Values given as options.
    config
        A TOML file that must exist, read after the system's and the user's.
    environment
        Used instead of ``os.environ``.

    Raises
    ------
    SettingsError
        If a file cannot be read, or a setting is unknown, invalid or contradicts another. It names
        all settings that are unknown or invalid.
    """
    environment = os.environ if environment is None else environment
    layers: list[tuple[str, Mapping[str, object]]] = [
        *((str(path), _read_toml(path)) for path in config_files(config, environment)),
        ("environment", _read_environment(environment)),
        ("command line", command_line),
    ]
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for origin, given in layers:
        layer = {name: given[name] for name in given if name in Settings.model_fields}
        problems += [_unknown(origin, name, given[name]) for name in given if name not in layer]
        if any(name in layer for name in SOURCE_SETTINGS):
            values = {name: values[name] for name in values if name not in SOURCE_SETTINGS}
        own, known = broker_table(layer.get("mqtt")), values.get("mqtt")
        values |= layer
        if isinstance(own, Mapping):
            # An address on the command line leaves the certificates of a file in force.
            values["mqtt"] = {**known, **own} if isinstance(known, Mapping) else own
        origins |= dict.fromkeys(layer, origin)
    origins = {name: origins[name] for name in values}
    response = cast(Response, str(values.get("response")))
    if "hop_seconds" not in values and response in RESPONSE_HOP_SECONDS:
        values["hop_seconds"] = RESPONSE_HOP_SECONDS[response]
        origins["hop_seconds"] = f"response = {response}"
    try:
        settings = Settings(**values)  # type: ignore[arg-type]
    except ValidationError as error:
        problems += _error_sentences(error, values, origins)
    if problems:
        raise SettingsError("; ".join(problems))
    _check_consistency(settings, origins)
    return Effective(settings, origins)


def config_files(config: Path | None, environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the TOML files to read, in the order of the layers; `config`, if given, must exist.

    The service's own settings may hold passwords, so other users may not be able to read them; a
    file that this user cannot read is left out.
    """
    home = environment.get("XDG_CONFIG_HOME") or Path(environment.get("HOME", "/")) / ".config"
    for path in (SYSTEM_CONFIG, Path(home) / "genre-stream" / "config.toml"):
        if os.access(path, os.R_OK):
            yield path
    requested = config or environment.get(CONFIG_VARIABLE)
    if requested:
        try:
            yield file_path(requested)
        except ValueError as error:
            raise SettingsError(f"{requested}: {error}") from None


def unreadable_config() -> Path | None:
    """Return the system's settings file if it exists but this user cannot read it."""
    exists = os.access(SYSTEM_CONFIG, os.F_OK)
    return SYSTEM_CONFIG if exists and not os.access(SYSTEM_CONFIG, os.R_OK) else None


def _read_toml(path: Path) -> dict[str, object]:
    try:
        if not path.is_file():
            raise SettingsError(f"{path}: no such settings file")
        # Editors of Windows begin a file with a byte order mark, which TOML does not allow.
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not text in UTF-8; save it in that encoding") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None


def _read_environment(environment: Mapping[str, str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
        field = Settings.model_fields.get(name)
        if text and field is not None and is_list(field):
            is_json = text.lstrip().startswith("[")
            try:
                values[name] = json.loads(text) if is_json else shlex.split(text)
            except ValueError as error:
                raise SettingsError(f"{_spelled('environment', name, text)}: {error}") from None
        elif text or field is None:
            values[name] = text
    return values


def _spelled(origin: str, name: str, value: object) -> str:
    """Return a setting as it is written in its layer.

    ``--port 1``, ``GENRE_STREAM_PORT=1`` or ``FILE: port = 1``; credentials are left out.
    """
    legible = isinstance(value, str) and value and value.isprintable()
    text = redact(str(value) if legible else json.dumps(value, default=str))
    if origin == "command line":
        return f"{option(name)} {text}"
    if origin == "environment":
        return f"{ENVIRONMENT_PREFIX}{name.upper()}={text}"
    return f"{origin}: {name} = {text}"


def _unknown(origin: str, name: str, value: object) -> str:
    near = suggestion(name, Settings.model_fields)
    return f"{_spelled(origin, name, value)}: unknown setting{near}"


def suggestion(name: str, known: Iterable[str], before: str = "") -> str:
    """Return `` (did you mean port?)`` with the known name most similar to `name`, or nothing.

    It is written with `before` in front.
    """
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {before}{nearest[0]}?)" if nearest else ""


def _error_sentences(
    error: ValidationError, values: Mapping[str, object], origins: Mapping[str, str]
) -> Iterator[str]:
    """Yield a sentence for each setting that is invalid."""
    for fault in error.errors(include_url=False, include_input=False):
        name = str(fault["loc"][0])
        problem = fault["msg"].removeprefix("Value error, ")
        spelled = _spelled(origins[name], name, values[name])
        if name in FILE_ONLY:
            spelled = f"{origins[name]}: {_rule_place(fault['loc'], values[name])}"
        elif len(fault["loc"]) > 1 and isinstance(values[name], Mapping | list):
            spelled = _spelled_part(origins[name], fault["loc"], values)
        yield f"{spelled}: {problem[:1].lower()}{problem[1:]}"


def _rule_place(location: Sequence[int | str], rules: object) -> str:
    """Return which rule is meant, and which of its fields; values may hold secrets."""
    if len(location) < 2 or not isinstance(rules, list) or not isinstance(location[1], int):
        return "alerts"
    name = rules[location[1]].get("name", location[1] + 1)
    names = ["for" if each == "duration" else str(each) for each in location[2:3]]
    return " ".join((f"alerts {name!r}", *names))


def _spelled_part(origin: str, location: Sequence[int | str], values: Mapping[str, object]) -> str:
    """Return a value within a table or a list as it is written in its layer."""
    value: Any = values
    path = ""
    for key in location:
        if isinstance(value, list) and isinstance(key, int):
            path += f"[{key + 1}]"
        elif isinstance(value, Mapping) and key in value:
            path += f".{key}" if path else str(key)
        else:
            break
        value = value[key]
    return f"{origin}: {path} = {redact(json.dumps(value, default=str))}"


def _check_consistency(settings: Settings, origins: Mapping[str, str]) -> None:
    def error(name: str, problem: str) -> SettingsError:
        value = getattr(settings, name)
        value = list(value) if isinstance(value, tuple) else value
        return SettingsError(f"{_spelled(origins[name], name, value)}: {problem}")

    for given, needed in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("channels", "rate")):
        if getattr(settings, given) is not None and getattr(settings, needed) is None:
            raise error(given, f"needs {needed} as well")
    if settings.loop and settings.follow:
        raise error("follow", "contradicts loop, which starts a file again at its end")
    standard_input = [text for text in settings.source if text == "-" or text.endswith("=-")]
    if settings.rate is not None and not standard_input:
        raise error("rate", "only raw samples on standard input (--source -) have a rate")
    if len(standard_input) > 1:
        raise error("source", "standard input can be heard only once")


def fields_by_group() -> dict[str, list[tuple[str, FieldInfo]]]:
    """Return the name and the field of every setting by heading, in the order of the schema."""
    groups: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in Settings.model_fields.items():
        groups.setdefault(extra(field, "group"), []).append((name, field))
    return groups


def extra(field: FieldInfo, key: Literal["group", "metavar"]) -> str:
    """Return the heading of a setting, or the placeholder of its value."""
    assert isinstance(field.json_schema_extra, dict)
    return str(field.json_schema_extra[key])


def option(name: str) -> str:
    """Return the command-line option of a setting."""
    return "--" + name.replace("_", "-")


def is_list(field: FieldInfo) -> bool:
    """Tell whether a setting takes several strings, or a table."""
    return field.annotation == tuple[str, ...] or get_origin(field.annotation) is dict


def choices(field: FieldInfo) -> list[str]:
    """Return the only values that a setting can have, or an empty list if it is free."""
    kinds = (field.annotation, *get_args(field.annotation))
    return [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
