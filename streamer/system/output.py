"""Output of long-running programs: lines for the user, without the noise of native libraries."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from streamer.system.commandline import UserError
from streamer.system.console import discard_standard_output


def print_line(line: str) -> None:
    """Print a line and flush it; a reader that has left does not stop the program.

    Raises
    ------
    UserError
        If standard output cannot be written, for one because the disk is full.
    """
    try:
        print(line, flush=True)
    except BrokenPipeError:
        discard_standard_output()
    except OSError as error:
        discard_standard_output()
        raise UserError(f"cannot write the output: {error.strerror}", exit_status=1) from None


@contextmanager
def silenced_stderr() -> Iterator[None]:
    """Discard everything written to file descriptor 2 within the block.

    TensorFlow logs about processors and missing GPUs when it is imported, from C++ and before it
    reads any setting.
    """
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
