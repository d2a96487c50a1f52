"""The start of the program, which imports nothing until it can be interrupted."""

from __future__ import annotations

import sys


def main() -> int:
    """Run genre-stream; return its exit status."""
    try:
        from streamer.commands.run import main as run
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
