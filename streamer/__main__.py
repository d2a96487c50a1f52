"""Entry point, which imports everything else where an interrupt is handled."""

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
