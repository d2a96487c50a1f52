"""What the header of a WAV file says about its length."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

UNKNOWN_SIZES = (0, 0x7FFFF000)
"""A size of the data that is the first, or not below the second, is that of a program that did not
know it, for one because it is still recording; FFmpeg then reads to the end of the file."""
LEAST_SECONDS = 1.0
"""Sound that must be missing or unheard for it to be reported."""


def length_problem(path: Path) -> tuple[str, int] | None:
    """Return in what the header and the length of a WAV file contradict each other, if they do.

    The second value is the number of bytes up to which the file is to be read: FFmpeg would search
    what follows in steps of 8 bytes, which takes minutes in a file that was allocated in advance.
    Chunks after the data, such as those with tags, are no contradiction. `OSError` is raised if the
    file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        file_size = path.stat().st_size
        bytes_per_second, size = _find_data(file)
        if not bytes_per_second or size == UNKNOWN_SIZES[0] or size >= UNKNOWN_SIZES[1]:
            return None
        end = file.tell() + size
        if end > file_size:
            there, said = (file_size - file.tell()) / bytes_per_second, size / bytes_per_second
            if said - there >= LEAST_SECONDS:
                problem = (
                    f"the file is not complete: it ends after {there:.1f} s, "
                    f"its header says {said:.1f} s"
                )
                return problem, file_size
            return None
        file.seek(end + size % 2)
        unheard = (file_size - _end_of_chunks(file, file_size)) / bytes_per_second
    if unheard < LEAST_SECONDS:
        return None
    problem = (
        f"its header says {size / bytes_per_second:.1f} s, so {unheard:.1f} s after that are not "
        "heard; to correct it: ffmpeg -ignore_length 1 -i OLD.wav NEW.wav"
    )
    return problem, end


def _find_data(file: BinaryIO) -> tuple[int, int]:
    """Move to the samples; return bytes per second and the bytes of the samples, or zeros."""
    bytes_per_second = 0
    while len(chunk := file.read(8)) == 8:
        size = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return bytes_per_second, size
        body = file.read(min(size, 40))
        if chunk[:4] == b"fmt ":
            bytes_per_second = int.from_bytes(body[8:12], "little")
        file.seek(size - len(body) + size % 2, 1)
    return 0, 0


def _end_of_chunks(file: BinaryIO, file_size: int) -> int:
    """Return where the last whole chunk ends that begins at the position of the file."""
    position = file.tell()
    while len(chunk := file.read(8)) == 8 and all(32 <= byte < 127 for byte in chunk[:4]):
        if chunk[:4] == b"RIFF":  # another WAV file was appended
            break
        size = int.from_bytes(chunk[4:], "little")
        end = position + 8 + size + size % 2
        if end > file_size + 1:
            break
        position = min(end, file_size)
        file.seek(position)
    return position
