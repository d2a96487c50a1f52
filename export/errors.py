"""What the exporter says when nothing was written."""

from __future__ import annotations


class ExportError(Exception):
    """The export failed; the message is one sentence with the way out."""

    status = 1


class UsageError(ExportError):
    """The export cannot even begin with what was given on the command line."""

    status = 2


def check_utf8(text: str, advice: str) -> None:
    """Refuse what neither a model file nor a terminal can hold.

    Bytes of a command line or of a file's name that are not UTF-8 are half surrogate pairs here.

    Raises
    ------
    UsageError
        If there are such; the message ends with the advice.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!a} is not UTF-8: {advice}") from None
