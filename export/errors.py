"""Errors of the exporter; wrong usage is a `UserError` as in the other programs."""

from __future__ import annotations

from streamer.system.commandline import UserError


class ExportError(UserError):
    """An export that failed while running; nothing was written."""

    exit_status = 1


def check_utf8(text: str, advice: str) -> None:
    """Raise a UserError, which ends with `advice`, for a text with surrogates.

    Python decodes bytes that are not UTF-8 to surrogates, in a command line or a file's name;
    neither a model file nor a terminal can hold them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!a} is not UTF-8: {advice}") from None
