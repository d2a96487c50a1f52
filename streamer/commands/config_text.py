"""The settings as text: those in force for `--print-config`, all of them for the sample file.

``python -m streamer.commands.config_text > systemd/config.toml`` writes the sample file anew.
"""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Mapping

from pydantic.fields import FieldInfo

from streamer import settings as schema
from streamer.core.broker import Broker
from streamer.core.decision_settings import DecisionSettings, DecisionSettingsError
from streamer.core.rules import Rule
from streamer.system.urls import redact


def describe(effective: schema.Effective) -> str:
    """Return the merged settings as TOML, each with its origin; credentials are left out.

    A decision setting that is not given is a comment with the model's own value, or what the
    response makes of it; if the model cannot be used, a line at the end says why.
    """
    lines = []
    own, responding, problem = _model_decision(effective.settings)
    for name, field in schema.Settings.model_fields.items():
        value = getattr(effective.settings, name)
        text = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}"
        is_decision = schema.extra(field, "group") == schema.DECISIONS
        if value is None and name in own:
            text = f"# {name} = {_toml(responding[name])}"
        default = "the model's" if is_decision else "default"
        if own.get(name) != responding.get(name):
            default = f"response = {effective.settings.response}"
        lines.append(f"{text:<40}  # {effective.origins.get(name, default)}")
    if problem:
        lines.append(f"# {problem}")
    if path := schema.unreadable_config():
        lines.append(f"# {path} may not be read by this user")
    return "\n".join(lines) + "\n"


def _model_decision(
    settings: schema.Settings,
) -> tuple[dict[str, object], dict[str, object], str]:
    """Return a model's own decision settings and those with the response.

    If the model cannot be used, return none, and why.
    """
    from streamer.core.model import DEFAULT_MODEL, Classifier, ModelError

    try:
        decision = Classifier.load(settings.model or DEFAULT_MODEL).contract.decision
        own = DecisionSettings.from_mapping(decision)
        responding = DecisionSettings.from_mapping(decision, response=settings.response)
    except (ModelError, DecisionSettingsError) as error:
        return {}, {}, " ".join(str(error).split())
    return dataclasses.asdict(own), dataclasses.asdict(responding), ""


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(name)} = {_toml(item)}" for name, item in value.items())
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    if isinstance(value, Rule):
        return _toml(_rule_table(value))
    if isinstance(value, Broker):
        given = {name: item for name, item in dataclasses.asdict(value).items() if item is not None}
        return _toml(given)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(redact(str(value)), ensure_ascii=False)


def _rule_table(rule: Rule) -> dict[str, object]:
    """Return what differs from the defaults; addresses of apprise are secrets."""
    table: dict[str, object] = {}
    for field in dataclasses.fields(Rule):
        value = getattr(rule, field.name)
        if field.name == "notify":
            value = [f"{address.partition('://')[0]}://…" for address in value]
        if value not in (field.default, []):
            table["for" if field.name == "duration" else field.name] = value
    return table


def _key(name: str) -> str:
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


SAMPLE_HEADING = """\
# Settings of genre-stream. To change one, remove the '#' before its name. The value shown is
# the default, or an example where there is none. The same names work as options
# (--hop-seconds) and in the environment (GENRE_STREAM_HOP_SECONDS). To give several values
# of a list, repeat the option, or separate them with blanks in the environment.
# 'genre-stream --print-config' shows the value of every setting and where it was given.
"""
EXAMPLES = {
    "device": '["mic"]',
    "source": '["radio=https://radio.example/stream.mp3", "hall=rtsp://camera.example/audio"]',
    "charset": '["radio=cp1251"]',
    "rate": "44100",
    "channels": "2",
    "model": '"/opt/genre-stream/my-model.onnx"',
    "effort": '"saving"',
    "labels": '{ rock = "guitar", metal = "guitar", disco = false }',
    "colours": '{ jazz = "#92dadd" }',
    "token_file": '"/etc/genre-stream/token"',
    "tls_cert": '"/etc/genre-stream/cert.pem"',
    "tls_key": '"/etc/genre-stream/key.pem"',
    "origin": '["https://radio.example"]',
    "mqtt": '"mqtt://user@homeassistant.local"',
    "osc": '["127.0.0.1:7700"]',
    "alerts": '[{ name = "dead air", when = "silence", for = 30, notify = ["json://host"] }]',
    "history": '"/var/lib/genre-stream/history.db"',
}
"""Values that the sample file shows for settings without a default."""


ALERT_EXAMPLES = """\
## examples of alerts: what a radio monitor needs, and a light designer

# Fields: name; when = "genre" (one of genres begins), "not_heard" (none of genres was heard for the
# time), "silence", "not_music", "uncertain", "not_live", "back" (live again after an outage) or
# "title_unchanged"; for and cooldown as 30, "5 min" or "2 h"; sources; between (hours of the day);
# over (whether the end is told); notify (addresses of https://github.com/caronc/apprise); run (a
# program and its arguments, without a shell) and run_seconds; message. In message and run, {rule},
# {event} (begins or over), {source}, {label}, {state}, {genre}, {title}, {since} and {seconds} are
# replaced. Try them: genre-stream alerts --test NAME, genre-stream alerts --replay HISTORY.db

#[[alerts]]
#name = "dead air"
#when = "silence"
#for = "30 s"
#cooldown = "10 min"
#notify = ["mailto://user:password@mail.example?to=studio@radio.example"]
#
#[[alerts]]
#name = "stream down"
#when = "not_live"
#for = "1 min"
#notify = ["ntfy://my-radio"]
#
#[[alerts]]
#name = "wrong programme"
#when = "genre"
#genres = ["metal", "hiphop"]
#for = "2 min"
#sources = ["classic"]
#between = "06:00-22:00"
#notify = ["ntfy://my-radio"]
#
#[[alerts]]
#name = "rock lights"
#when = "genre"
#genres = ["rock", "metal"]
#cooldown = 0
#over = true
#run = ["/usr/local/bin/scene", "{event}", "{source}", "{label}"]
"""


def sample_config() -> str:
    """Return the sample file: every setting, commented out, with its help, limits and default.

    The decision settings are shown with the values of the embedded model.
    """
    embedded, _, _ = _model_decision(schema.Settings())
    shown = EXAMPLES | {name: _toml(value) for name, value in embedded.items()}
    lines = [SAMPLE_HEADING.rstrip("\n")]
    for group, fields in schema.fields_by_group().items():
        lines += ["", f"## {group}"]
        if group == schema.DECISIONS:
            lines += ["", "# The values shown are those of the embedded model."]
        for name, field in fields:
            help_text = textwrap.wrap(_help_with_limits(field), 96)
            lines += ["", *(f"# {line}" for line in help_text)]
            lines.append(f"#{name} = {shown[name] if name in shown else _toml(field.default)}")
    return "\n".join((*lines, "", ALERT_EXAMPLES))


def _help_with_limits(field: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    limits = [
        f"{sign} {getattr(limit, attribute):g}"
        for limit in field.metadata
        for attribute, sign in signs.items()
        if hasattr(limit, attribute)
    ]
    limits += [repr(word) for word in schema.choices(field)]
    return f"{field.description} ({', '.join(limits)})" if limits else str(field.description)


if __name__ == "__main__":
    print(sample_config(), end="")
