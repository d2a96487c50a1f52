"""genre-stream alerts: fire a rule by hand, or tell when the rules would have fired."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from streamer import settings as schema
from streamer.core.rules import Firing, Rule, RuleBook
from streamer.outputs import missing
from streamer.sinks.history.database import HistoryError, open_query
from streamer.system.commandline import ArgumentParser, UserError, print_line

Event = tuple[datetime, Callable[[RuleBook], list[Firing]]]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream alerts", description="Try the rules of the settings (alerts)."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--test", metavar="NAME", help="do what this rule does when it fires")
    replay_help = "tell when each rule would have fired, from what --history has written"
    what.add_argument("--replay", type=Path, metavar="FILE", help=replay_help)
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this TOML file as well")
    return parser


def main(argv: Sequence[str]) -> int:
    """Fire a rule or replay a history; return the exit status."""
    arguments = build_parser().parse_args(argv)
    rules = schema.load({}, config=arguments.config).settings.alerts
    if not rules:
        raise UserError("the settings have no alerts; see the examples in the sample file")
    if arguments.test is not None:
        return _test(rules, arguments.test)
    try:
        for firing in replay(rules, arguments.replay):
            moment = firing.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
            print_line(f"{moment}  {firing.rule.name}: {firing.message}")
    except HistoryError as error:
        raise UserError(str(error), exit_status=1) from None
    return 0


def _test(rules: Sequence[Rule], name: str) -> int:
    rule = next((rule for rule in rules if rule.name == name), None)
    if rule is None:
        hint = schema.suggestion(name, [rule.name for rule in rules])
        raise UserError(f"no rule has the name {name!r}{hint}")
    try:
        from streamer.sinks.alerts.actions import actions
    except ModuleNotFoundError:
        raise missing("alerts") from None
    now = datetime.now(UTC)
    source = "test" if "*" in rule.sources else rule.sources[0]
    genre = rule.genres[0] if rule.genres else None
    state = "music" if genre else rule.when
    failures = []
    try:
        for action in actions(rule):
            firing = Firing(rule, source, now, now, False, state, genre, None)
            if reason := action.perform(firing):
                failures.append(reason)
    except ValueError as error:
        raise UserError(f"alerts {name!r}: {error}") from None
    if failures:
        raise UserError(f"alerts {name!r}: {'; '.join(failures)}", exit_status=1)
    print_line(f"{name}: done")
    return 0


def replay(rules: Sequence[Rule], path: Path) -> Iterator[Firing]:
    """Yield what the rules would have fired, oldest first; `HistoryError` for the file."""
    book = RuleBook(rules)
    for moment, apply in sorted(_events(path), key=lambda event: event[0]):
        while (due := book.next_due()) is not None and due <= moment:
            yield from book.advance(due)
        yield from apply(book)


def _events(path: Path) -> Iterator[Event]:
    """Yield what a history says about its sources, not in order."""
    start = datetime.fromtimestamp(0, UTC)
    last = start
    with open_query(path, start, datetime.now(UTC) + timedelta(days=1), limit=10**9) as query:
        for row in query.states():
            if row["state"] == "not_running":  # then no rule can fire
                continue
            yield _status(row["source"], row["state"], datetime.fromisoformat(row["start"]))
            last = max(last, datetime.fromisoformat(row["end"] or row["start"]))
        for row in query.segments():
            yield _segment(row, datetime.fromisoformat(row["start"]))
            last = max(last, datetime.fromisoformat(row["end"] or row["start"]))
    yield last, lambda book: book.advance(last)


def _status(source: str, state: str, moment: datetime) -> Event:
    return moment, lambda book: book.status(source, state, moment, moment)


def _segment(row: dict[str, str], moment: datetime) -> Event:
    return moment, lambda book: book.hear(
        row["source"],
        moment,
        moment,
        state=row["state"],
        genre=row["genre"],
        title=row["title"],
    )
