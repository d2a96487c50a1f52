from __future__ import annotations

import errno

import av
import pytest

from streamer.sources.ffmpeg_errors import REASONS, describe

OF_FFMPEG = [code for code in av.error.classes if code not in errno.errorcode]


def error_with(code: int) -> av.FFmpegError:
    own_text = av.error.ErrorType(code).strerror if code in OF_FFMPEG else None
    return av.error.classes[code](code, own_text or "text of the system")


@pytest.mark.parametrize("code", OF_FFMPEG)
def test_every_error_of_ffmpeg_has_a_sentence_of_ours(code: int) -> None:
    error = error_with(code)
    told = describe(error)
    assert told == REASONS[type(error).__name__]
    assert error.strerror.lower() not in told.lower()
    assert told[0].islower() or told.startswith("FFmpeg")
    assert not told.endswith(".")


def test_errors_of_the_system_keep_its_words() -> None:
    assert describe(ConnectionRefusedError(111, "Connection refused")) == "connection refused"
    assert describe(error_with(errno.ECONNREFUSED)) == "text of the system"


def test_an_error_without_a_code_is_named() -> None:
    assert describe(OSError()) == "oserror"


def test_an_unknown_code_is_shown() -> None:
    told = describe(av.FFmpegError(987654321, "Mystery"))
    assert told == "FFmpeg failed for a reason that it does not name (error 987654321)"
