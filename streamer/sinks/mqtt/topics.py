"""What the topics are called."""

from __future__ import annotations

import hashlib
import re


def slug(name: str) -> str:
    """Return a name with what MQTT and Home Assistant do not take replaced by ``_``.

    Examples
    --------
    >>> slug("hall/2 Köln")
    'hall_2_K_ln'
    """
    return re.sub("[^a-zA-Z0-9_-]", "_", name)


class Topics:
    """The topics of one node; no two sources share one.

    `prefix`, `node` and `home_assistant` are those of a `Broker`.
    """

    def __init__(self, prefix: str, node: str, home_assistant: str) -> None:
        self.root = f"{prefix}/{slug(node)}"
        self.status = f"{self.root}/status"
        self.hello = f"{self.root}/hello"
        self.home_assistant = home_assistant
        self._node = slug(node)
        self._slugs: dict[str, str] = {}

    def source(self, name: str) -> str:
        """Return the topic of a source, which is above those of its messages."""
        return f"{self.root}/{self._slug(name)}"

    def device(self, name: str) -> str:
        """Return the identifier of a source's device in Home Assistant."""
        return f"genre-stream_{self._node}_{self._slug(name)}"

    def config(self, name: str) -> str:
        """Return the topic that describes a source to Home Assistant."""
        return f"{self.home_assistant}/device/{self.device(name)}/config"

    def _slug(self, name: str) -> str:
        if name not in self._slugs:
            own = slug(name)
            if own in self._slugs.values():
                own += "_" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:6]
            self._slugs[name] = own
        return self._slugs[name]
