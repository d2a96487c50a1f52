"""genre-stream relay: serve what listening machines tell an MQTT broker."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from streamer import settings as schema
from streamer.commands.run import add_option
from streamer.system.commandline import ArgumentParser, UserError

DESCRIPTION = """\
Serve WebSocket clients, the dashboard and the history from an MQTT broker alone: what many
genre-streams with --mqtt and --mqtt-predictions, or a fleet, hear. Clients cannot tell a relay from
a genre-stream that has all the sources itself. A source keeps its name unless another node has one
of the same name; then both are NODE/SOURCE.
"""

BROKER_HELP = """\
the MQTT broker that the nodes tell, as mqtt[s]://[user:password@]host[:port]; in a file also a
table with url, user, password_file, ca_file, cert_file, key_file and prefix
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the sub-command's options."""
    parser = ArgumentParser(
        prog="genre-stream relay",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    fields = schema.fields_by_group()
    broker = parser.add_argument_group("the broker")
    broker.add_argument("--mqtt", metavar="URL", help=BROKER_HELP)
    for heading, own in (
        (schema.SERVING, fields[schema.SERVING]),
        (schema.RECORDS, fields[schema.RECORDS]),
    ):
        group = parser.add_argument_group(heading)
        for name, field in own:
            add_option(group, name, field)
    parser.add_argument("--config", type=Path, metavar="FILE", help="read this TOML file as well")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the relay; return the exit status."""
    given = vars(build_parser().parse_args(argv))
    settings = schema.load(
        {name: given[name] for name in given if name != "config"}, config=given.get("config")
    ).settings
    if settings.mqtt is None:
        raise UserError("a relay needs a broker: --mqtt mqtt[s]://[user:password@]host[:port]")
    from streamer.relay.service import run

    return run(settings)
