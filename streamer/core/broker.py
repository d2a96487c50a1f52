"""An MQTT broker, as the settings name it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

SCHEMES = {"mqtt": 1883, "mqtts": 8883}
"""Default port by scheme of the address."""


@dataclass(frozen=True, slots=True)
class Broker:
    """Where and how to reach an MQTT broker, and what its topics are called.

    Raises `ValueError` if a value cannot be used.
    """

    url: str
    """``mqtt[s]://[user:password@]host[:port]``; mqtts is TLS."""
    user: str | None = None
    """Overrides the user of `url`."""
    password_file: Path | None = None
    """File with the password."""
    ca_file: Path | None = None
    """Certificate (PEM) of the authority that signed the broker's; else those of the system."""
    cert_file: Path | None = None
    """Certificate (PEM) of this client."""
    key_file: Path | None = None
    """Its private key."""
    prefix: str = "genre-stream"
    """First level of the topics."""
    node: str | None = None
    """Second level of the topics; else the name of this computer."""
    home_assistant: str = "homeassistant"
    """First level of Home Assistant's topics; empty if there is no Home Assistant."""

    def __post_init__(self) -> None:
        """Check the values."""
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = 0
        extra = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in SCHEMES or not parts.hostname or port == 0 or extra:
            raise ValueError("should be mqtt[s]://[user:password@]host[:port]")
        if not self.is_tls and (self.ca_file or self.cert_file):
            raise ValueError("ca_file and cert_file need an address that begins with mqtts://")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file need each other")
        for name in ("prefix", "node", "home_assistant"):
            value = getattr(self, name) or ""
            if set(value) & set("+#\0") or (not value and name == "prefix"):
                raise ValueError(f"{name} should be the beginning of a topic, without + and #")

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return urlsplit(self.url).scheme == "mqtts"

    @property
    def host(self) -> str:
        """Name or address of the broker."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """TCP port of the broker."""
        parts = urlsplit(self.url)
        return parts.port or SCHEMES[parts.scheme]

    @property
    def login(self) -> tuple[str | None, str | None]:
        """User and password as far as `user` and `url` name them."""
        parts = urlsplit(self.url)
        user = self.user or (unquote(parts.username) if parts.username else None)
        return user, unquote(parts.password) if parts.password else None

    def with_password(self, password: str | None) -> Broker:
        """Return the same broker with a password in its address, instead of a file with it.

        Examples
        --------
        >>> Broker("mqtt://broker", user="me").with_password("a/b").url
        'mqtt://me:a%2Fb@broker:1883'
        """
        if password is None:
            return self
        parts = urlsplit(self.url)
        host = f"[{self.host}]" if ":" in self.host else self.host
        login = f"{quote(self.login[0] or '', safe='')}:{quote(password, safe='')}"
        url = f"{parts.scheme}://{login}@{host}:{self.port}"
        return replace(self, url=url, password_file=None)
