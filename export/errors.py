"""Errors of the exporter; wrong usage is a `UserError` as in the other programs."""

from __future__ import annotations

from streamer.system.commandline import UserError


class ExportError(UserError):
    """An export that failed while running; nothing was written."""

    exit_status = 1


def check_utf8(text: str, advice: str) -> None:
    """Refuse a text with surrogates, which stand for bytes that are not UTF-8.

    Python decodes such bytes of a command line or a file's name to surrogates, which neither a
    model file nor a terminal can hold.

    Raises
    ------
    UserError
        If there are any; the message ends with `advice`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{text!a} is not UTF-8: {advice}") from None
