"""What the statuses of web servers mean, in words for users."""

from __future__ import annotations

SENTENCES = {
    301: "its redirects lead in a circle or nowhere; give the address of the stream itself",
    400: "it does not understand this address",
    401: "it needs a user name and password, or others: http://USER:PASSWORD@HOST/…",
    402: "it asks for payment",
    403: "it does not allow access",
    404: "there is nothing at this address",
    405: "it does not allow to read this address",
    406: "it has the stream in no form that is accepted",
    407: "the proxy needs a user name and password, or others",
    408: "it waited too long for the request",
    410: "the stream is gone for good",
    414: "the address is too long for it",
    416: "it does not have the part of the file that is missing",
    421: "it does not serve this host; check the address",
    425: "it cannot handle the request yet",
    426: "it asks for another protocol",
    428: "it asks for conditions that are not sent",
    429: "it was asked too often",
    431: "the request is too large for it",
    451: "it may not send this for legal reasons",
    500: "it has failed",
    501: "it does not know this kind of request",
    502: "the server behind it has failed",
    503: "it is overloaded, full or off the air",
    504: "the server behind it does not answer",
    505: "it does not know this version of HTTP",
    507: "it has no space left",
    511: "this network asks to sign in first; open a web page there",
}
"""Status -> what the server means by it; the others have the sentence of their class."""
CLASSES = {
    1: "this is no answer to a request",
    2: "there is nothing to play",
    3: "it names no other address that can be followed",
    4: "it does not accept the request",
    5: "it has failed",
}
REDIRECTS = (301, 302, 303, 307, 308)
PERMANENT = (*REDIRECTS, 404, 410)
"""Statuses after which another request is pointless: of redirects, only circles get here."""


def describe(status: int, by: str = "the server") -> str:
    """Return what a status means that `by` answered, as a phrase that names it.

    Examples
    --------
    >>> describe(404)
    'the server answered 404: there is nothing at this address'
    >>> describe(599)
    'the server answered 599: it has failed'
    """
    key = 301 if status in REDIRECTS else status
    sentence = SENTENCES.get(key) or CLASSES.get(status // 100, "a status that does not exist")
    return f"{by} answered {status}: {sentence}"
