"""What the exporter says when nothing was written."""

from __future__ import annotations


class ExportError(Exception):
    """The export failed; the message is one sentence with the way out."""

    status = 1


class UsageError(ExportError):
    """The export cannot even begin with what was given on the command line."""

    status = 2
