"""Rules that say when to alert, and their evaluation: times come in, firings go out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Literal, get_args

When = Literal[
    "genre",
    "not_heard",
    "silence",
    "not_music",
    "uncertain",
    "not_live",
    "back",
    "title_unchanged",
]
"""What a rule waits for: a genre or group begins, or was not heard; a state lasts; a source is not
live, or comes back; a title stays the same."""
NEED_GENRES = ("genre", "not_heard")
MOMENTS = ("genre", "back")
"""Of these the end is not told unless a rule asks for it."""
UNITS = {"s": 1, "min": 60, "h": 3600}
PLACEHOLDERS = ("rule", "event", "source", "label", "state", "genre", "title", "since", "seconds")
"""What may stand in braces in messages and arguments."""

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """When to alert, and what to do then. Raises `ValueError` if a value cannot be used."""

    name: str
    when: When
    genres: tuple[str, ...] = ()
    """The genre or the group of genres that `when` is about."""
    duration: str | float = 0.0
    """How long it must last: seconds, or text such as ``5 min``; ``for`` in the settings."""
    sources: tuple[str, ...] = ("*",)
    """Names of the sources that are watched."""
    between: str | None = None
    """Hours of the day, in local time, in which the rule may fire: ``22:00-06:00``."""
    cooldown: str | float = 600.0
    """Least time from one firing about a source to the next, as `duration`."""
    over: bool | None = None
    """Whether the end is told as well; by default it is, but for `MOMENTS`."""
    notify: tuple[str, ...] = ()
    """Addresses of apprise."""
    run: tuple[str, ...] = ()
    """A program and its arguments."""
    run_seconds: float = 30.0
    """After this time the program is stopped."""
    message: str | None = None
    """Text of the notification."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.name:
            raise ValueError("a rule needs a name")
        if self.when not in get_args(When):
            raise ValueError(f"when should be one of {', '.join(get_args(When))}")
        if (self.when in NEED_GENRES) != bool(self.genres):
            need = "needs" if self.when in NEED_GENRES else "has no"
            raise ValueError(f"when = {self.when!r} {need} genres")
        if not self.notify and not self.run:
            raise ValueError("a rule needs notify or run")
        if self.run_seconds <= 0:
            raise ValueError("run_seconds should be more than 0")
        seconds(self.duration)
        seconds(self.cooldown)
        if self.between is not None:
            hours(self.between)
        for text in (*self.run, self.message or ""):
            for name in _PLACEHOLDER.findall(text):
                if name not in PLACEHOLDERS:
                    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
                    raise ValueError(f"{{{name}}} is unknown; there are {known}")

    @property
    def tells_end(self) -> bool:
        """Whether the end of what fired is told."""
        return self.when not in MOMENTS if self.over is None else self.over


def seconds(value: str | float) -> float:
    """Return a time in seconds that may be written as ``30 s``, ``5 min`` or ``2 h``.

    Examples
    --------
    >>> seconds("5 min")
    300.0
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h)?", str(value).strip())
    if not found:
        raise ValueError(f"{value!r} should be a time such as 30, '5 min' or '2 h'")
    return float(found[1]) * UNITS[found[2] or "s"]


def hours(text: str) -> tuple[time, time]:
    """Return beginning and end of a part of the day."""
    try:
        start, end = (time.fromisoformat(part.strip()) for part in text.split("-"))
    except ValueError:
        raise ValueError(f"between = {text!r} should be hours such as '22:00-06:00'") from None
    return start, end


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders replaced; values are not searched for others.

    Examples
    --------
    >>> fill("{source}: {title}", {"source": "{title}", "title": "Blue"})
    '{title}: Blue'
    """
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule fires about a source, or what it fired about is over."""

    rule: Rule
    source: str
    time: datetime
    since: datetime
    """When it began."""
    is_over: bool
    state: str
    genre: str | None
    title: str | None

    @property
    def values(self) -> dict[str, str]:
        """The values of `PLACEHOLDERS`."""
        return {
            "rule": self.rule.name,
            "event": "over" if self.is_over else "begins",
            "source": self.source,
            "label": self.genre or self.state,
            "state": self.state,
            "genre": self.genre or "",
            "title": self.title or "",
            "since": self.since.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
            "seconds": f"{(self.time - self.since).total_seconds():.0f}",
        }

    @property
    def message(self) -> str:
        """Text for a person."""
        values = self.values
        if self.rule.message is not None:
            return fill(self.rule.message, values)
        if self.is_over:
            return fill("{source}: {rule} is over after {seconds} s", values)
        return fill("{source}: {rule}, {label} since {since}", values)


@dataclass(slots=True)
class _Heard:
    """What is known of a source."""

    live: bool | None = None
    """None before it was live for the first time."""
    returned: bool = False
    """Whether it is live after an outage."""
    was_live: bool = False
    ended: bool = False
    state: str = ""
    genre: str | None = None
    title: str | None = None


@dataclass(slots=True)
class _Alarm:
    """One rule about one source."""

    rule: Rule
    key: object = None
    """What lasts; None if nothing does."""
    since: datetime | None = None
    held: bool = False
    """Whether nothing is known of what it is about: the source is not live."""
    active: bool = False
    fired: datetime | None = None

    def due(self) -> datetime | None:
        """Return when it fires next if what lasts goes on; None if not at all."""
        if self.since is None or self.active or self.held:
            return None
        due = self.since + timedelta(seconds=seconds(self.rule.duration))
        if self.fired is not None:
            due = max(due, self.fired + timedelta(seconds=seconds(self.rule.cooldown)))
        return due if self.rule.between is None else _within(due, *hours(self.rule.between))


def _within(moment: datetime, start: time, end: time) -> datetime:
    """Return the first moment from `moment` on that lies in a part of the day, in local time."""
    local = moment.astimezone()
    now = local.time()
    inside = start <= now < end if start <= end else now >= start or now < end
    if inside:
        return moment
    day = local.date() + timedelta(days=now > start)
    return datetime.combine(day, start).astimezone()


@dataclass(slots=True)
class RuleBook:
    """Evaluates rules; every method returns what fires, oldest first.

    Times must not go back.
    """

    rules: Sequence[Rule]
    _sources: dict[str, _Heard] = field(default_factory=dict)
    _alarms: dict[tuple[str, str], _Alarm] = field(default_factory=dict)
    """By the names of rule and source."""

    def status(self, source: str, state: str, now: datetime, since: datetime) -> list[Firing]:
        """Take that a source is in a state of the protocol since a moment."""
        heard = self._sources.setdefault(source, _Heard())
        is_live = state == "live"
        if not is_live:
            # What was heard says nothing about what will be.
            heard.returned, heard.state, heard.genre = False, "", None
        elif heard.live is False and heard.was_live:
            heard.returned = True
        heard.was_live |= is_live
        if is_live or heard.live is not None or state not in ("connecting", "ended"):
            heard.live = is_live
        heard.ended = state == "ended"
        return self._update(source, now, since)

    def hear(
        self,
        source: str,
        now: datetime,
        since: datetime,
        *,
        state: str,
        genre: str | None,
        title: str | None,
    ) -> list[Firing]:
        """Take what a live source plays, since when."""
        heard = self._sources.setdefault(source, _Heard())
        heard.live = True if heard.live is None else heard.live
        heard.state, heard.genre, heard.title = state, genre, title
        return self._update(source, now, since)

    def remove(self, source: str) -> None:
        """Forget a source."""
        self._sources.pop(source, None)
        for key in [key for key in self._alarms if key[1] == source]:
            del self._alarms[key]

    def advance(self, now: datetime) -> list[Firing]:
        """Take that it is `now`."""
        fired = []
        for (_, source), alarm in self._alarms.items():
            if (due := alarm.due()) is not None and due <= now:
                alarm.active, alarm.fired = True, now
                fired.append(self._firing(alarm, source, now, is_over=False))
        return fired

    def next_due(self) -> datetime | None:
        """Return when something fires next if nothing changes."""
        return min((due for each in self._alarms.values() if (due := each.due())), default=None)

    def last_firings(self) -> list[dict[str, object]]:
        """Return, for each rule, when and about which source it fired last, and where it holds."""
        listed: list[dict[str, object]] = []
        for rule in self.rules:
            own = {key[1]: each for key, each in self._alarms.items() if key[0] == rule.name}
            fired = {name: each.fired for name, each in own.items() if each.fired}
            last = max(fired, key=lambda name: fired[name], default=None)
            listed.append(
                {
                    "name": rule.name,
                    "fired": fired[last] if last is not None else None,
                    "source": last,
                    "active": sorted(name for name, each in own.items() if each.active),
                }
            )
        return listed

    def take_over(self, former: RuleBook) -> None:
        """Take what `former` knows; rules that are the same continue."""
        self._sources = former._sources
        same = {rule.name for rule in self.rules if rule in former.rules}
        kept = {key: alarm for key, alarm in former._alarms.items() if key[0] in same}
        self._alarms = kept

    def _update(self, source: str, now: datetime, since: datetime) -> list[Firing]:
        fired = []
        heard = self._sources[source]
        for rule in self.rules:
            if "*" not in rule.sources and source not in rule.sources:
                continue
            alarm = self._alarms.setdefault((rule.name, source), _Alarm(rule))
            is_about_sound = rule.when not in ("not_live", "back")
            alarm.held = is_about_sound and not (heard.live and heard.state)
            if alarm.held:
                if not alarm.active and rule.when not in ("not_heard", "title_unchanged"):
                    alarm.key = alarm.since = None
                continue
            key = _condition(rule, heard)
            if key == alarm.key:
                continue
            if alarm.active and rule.tells_end:
                fired.append(self._firing(alarm, source, now, is_over=True))
            alarm.key, alarm.active = key, False
            alarm.since = None if key is None else since
        return [*fired, *self.advance(now)]

    def _firing(self, alarm: _Alarm, source: str, now: datetime, *, is_over: bool) -> Firing:
        heard = self._sources[source]
        assert alarm.since is not None
        return Firing(
            alarm.rule,
            source,
            now,
            alarm.since,
            is_over,
            heard.state if heard.live else "not_live",
            heard.genre if heard.live else None,
            heard.title,
        )


def _condition(rule: Rule, heard: _Heard) -> object:
    """Return what lasts, None if nothing does; another value means that it began anew."""
    match rule.when:
        case "not_live":
            return True if heard.live is False and not heard.ended else None
        case "back":
            return True if heard.returned else None
        case "genre":
            return True if heard.genre in rule.genres else None
        case "not_heard":
            return None if heard.genre in rule.genres else True
        case "title_unchanged":
            return heard.title or None
        case state:
            return True if heard.state == state else None
