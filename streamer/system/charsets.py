"""Names of character encodings."""

from __future__ import annotations


def check_charset(name: str) -> None:
    """Raise `ValueError` unless there is a character encoding of this name.

    Examples
    --------
    >>> check_charset("cp1251")
    """
    try:
        b"a".decode(name, errors="replace")
    except (LookupError, ValueError):
        raise ValueError(f"there is no character encoding '{name}'") from None
