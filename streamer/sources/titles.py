"""Titles of radios: bytes in an encoding that few stations name."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections import deque

from charset_normalizer import from_bytes

from streamer.sources.base import one_line

WESTERN = "cp1252"
"""A superset of Latin-1, with quotation marks in place of control characters."""
CHARSETS = (
    WESTERN,
    "iso8859_2",
    "cp1250",
    "cp1254",
    "cp1251",
    "koi8_r",
    "cp1253",
    "cp1255",
    "cp1256",
)
"""One byte per letter: what is guessed from first."""
WIDE_CHARSETS = ("gb18030", "big5", "euc_kr", "euc_jp", "shift_jis")
"""Several bytes per letter: what is guessed from where the others make no words."""
REMEMBERED = 20
"""Titles of a source that a guess is made from."""
SURE_TITLES = 3
"""From so many titles on a guess between languages in Latin letters is trusted."""
LEAST_FAULTS = 3
"""From so many faults on, and one a title, the best of `CHARSETS` makes no words."""
SUPERSETS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "us-ascii", "ascii"), WESTERN),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis"), "cp932"),
    "euc-kr": "cp949",
    "big5": "big5hkscs",
}
"""Declared encoding -> what is meant by it, as browsers understand it."""
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_WORD = re.compile(r"[^\s!-@\[-`{-~]+")
"""What ASCII's punctuation and digits separate."""
_PUNCTUATION = "‘’“”„‚«»‹›–—…·•№´¡¿"  # noqa: RUF001


class TitleDecoder:
    """Decodes the titles of one source.

    UTF-8 is tried first, then what the stream declares, then what all titles so far fit best. Where
    a `charset` is given, nothing else is tried.
    """

    def __init__(self, charset: str | None = None) -> None:
        self._charset = charset
        self._undeclared: deque[bytes] = deque(maxlen=REMEMBERED)

    def decode(self, title: bytes, declared: str | None = None) -> str:
        """Return a title as one line, empty if it names nothing.

        Examples
        --------
        >>> TitleDecoder().decode(b"Foo &amp; B&#228;r")
        'Foo & Bär'
        >>> TitleDecoder().decode(b" - ")
        ''
        """
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), self._text(title, declared))
        return one_line(text) if text.strip("-–— ") else ""  # noqa: RUF001

    def _text(self, title: bytes, declared: str | None) -> str:
        if self._charset:
            return title.decode(self._charset, errors="replace")
        for charset in ("utf-8", declared and SUPERSETS.get(declared.lower(), declared)):
            try:
                if charset:
                    return title.decode(charset)
            except (UnicodeError, LookupError):
                continue
        if title not in self._undeclared:
            self._undeclared.append(title)
        return title.decode(guess_charset(self._undeclared), errors="replace")


def guess_charset(titles: deque[bytes]) -> str:
    """Return the encoding that makes the most plausible words of all titles.

    Examples
    --------
    >>> guess_charset(deque(["Песня".encode("koi8-r")]))
    'koi8_r'
    """
    faults: dict[str, int] = {}
    for charset in CHARSETS:
        try:
            texts = [title.decode(charset) for title in titles]
        except UnicodeDecodeError:
            continue
        faults[charset] = sum(_faults(word) for text in texts for word in _WORD.findall(text))
    fewest = min(faults.values())
    if fewest >= max(LEAST_FAULTS, len(titles)):
        found = from_bytes(b"\n".join(titles), cp_isolation=list(WIDE_CHARSETS)).best()
        if found:
            return found.encoding
    best = [name for name, count in faults.items() if count == fewest]
    if best[0] == WESTERN and len(titles) < SURE_TITLES:
        return WESTERN
    if len(best) == 1:
        return best[0]
    found = from_bytes(b"\n".join(titles), cp_isolation=best).best()
    return found.encoding if found else best[0]


def _faults(word: str) -> int:
    """Count what does not occur in a word: signs, letters of two scripts, capitals within it."""
    core = word.strip(_PUNCTUATION)
    letters = [letter for letter in core if letter.isalpha()]
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in letters}
    count = len(core) - len(letters) + max(0, len(scripts) - 1)
    if not core.isupper():
        count += sum(a.islower() and b.isupper() for a, b in itertools.pairwise(core))
    # Words in Latin letters have some without accents.
    return count + (scripts == {"LATIN"} and len(core) > 2 and not re.search("[A-Za-z]", core))
