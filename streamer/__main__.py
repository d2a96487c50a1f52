"""Entry point, which imports everything else where signals are handled."""

from __future__ import annotations

import sys

from streamer.system.ending import exit_on_sigterm, exit_past_threads


def main() -> int:
    """Run genre-stream; return its exit status."""
    exit_on_sigterm()
    try:
        from streamer.commands.run import main as run
    except KeyboardInterrupt:
        return 130
    return exit_past_threads(run())


if __name__ == "__main__":
    sys.exit(main())
