"""Which announcements of titles are the beginning of another song."""

from __future__ import annotations


class Titles:
    """The titles that one source announces; it may stop and begin doing so within a song."""

    def __init__(self) -> None:
        self.current: str | None = None
        """The title in force; empty if there is none, None if nothing is known of it."""
        self._last: str | None = None

    def is_cut(self, title: str | None, discontinuity: bool = False) -> bool:
        """Return whether another song begins with `title`, or sound is missing before it."""
        return discontinuity or (bool(title) and bool(self._last) and title != self._last)

    def take(self, title: str | None, discontinuity: bool = False) -> None:
        """Take what the source announces: a title, "" for none, or None for nothing new."""
        if title is not None or discontinuity:
            self.current = title
        if title or discontinuity:
            self._last = title
