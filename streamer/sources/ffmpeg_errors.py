"""What the errors of FFmpeg mean, in words for users."""

from __future__ import annotations

import errno

import av

NOT_AUDIO = "this is not audio that FFmpeg can read, or it is damaged"
DEFECT = "FFmpeg failed in a way that it should not; try another file, and report this one"
REASONS: dict[str | int, str] = {
    "BSFNotFoundError": "this FFmpeg lacks a filter for this kind of audio",
    "BugError": DEFECT,
    "BufferTooSmallError": "a part of it is larger than FFmpeg takes; it is damaged",
    "DecoderNotFoundError": "this FFmpeg cannot decode this kind of audio; convert it",
    "DemuxerNotFoundError": "this FFmpeg cannot read this kind of file; convert it",
    "EncoderNotFoundError": DEFECT,
    "EOFError": "it ends before its first sound",
    "ExitError": "no data in time",
    "ExternalError": "a library of FFmpeg cannot decode this audio; it may be damaged",
    "FilterNotFoundError": DEFECT,
    "InvalidDataError": NOT_AUDIO,
    "MuxerNotFoundError": DEFECT,
    "OptionNotFoundError": DEFECT,
    "PatchWelcomeError": "it uses a feature of its format that FFmpeg does not know; convert it",
    "ProtocolNotFoundError": "this kind of address is not supported; check what is before ://",
    "UnknownError": DEFECT,
    "ExperimentalError": "this kind of audio can be decoded by an experimental FFmpeg only",
    "InputChangedError": "its sample rate or channels change, which FFmpeg cannot follow",
    "OutputChangedError": DEFECT,
    "HTTPBadRequestError": "the server answered 400: it does not understand this address",
    "HTTPUnauthorizedError": "the server answered 401: it needs another user name or password",
    "HTTPForbiddenError": "the server answered 403: it does not allow access",
    "HTTPNotFoundError": "the server answered 404: there is nothing at this address",
    "HTTPTooManyRequestsError": "the server answered 429: it was asked too often",
    "HTTPOtherClientError": "the server refused the request (a status from 402 to 499)",
    "HTTPServerError": "the server failed (a status from 500 to 599)",
    "PyAVCallbackError": "it could not be read",
    errno.EAGAIN: "no data in time",
    errno.EDOM: "it holds values that are not possible; it is damaged",
    errno.EINVAL: "FFmpeg cannot make sense of it; the address is wrong or the audio is damaged",
    errno.EIO: "it cannot be read to its end; the disk or the connection failed",
    errno.ENOMEM: "there is not enough memory to decode it",
    errno.ENOSYS: "it uses a feature of its format that FFmpeg does not know; convert it",
    errno.EPROTO: "the server's answer is not understood",
    errno.EPROTONOSUPPORT: "the server asks for a transport that is not supported",
    errno.ERANGE: "it holds values that are not possible; it is damaged",
}
"""Name of an exception of PyAV, or code of the operating system -> what has happened, for errors
whose own text says little to a user."""


def describe(error: OSError | av.FFmpegError) -> str:
    """Return why something could not be read, as a phrase without FFmpeg's wording.

    Examples
    --------
    >>> describe(FileNotFoundError(2, "No such file or directory"))
    'no such file or directory'
    """
    for key in (type(error).__name__, error.errno):
        if key in REASONS:
            return REASONS[key]
    if error.errno in errno.errorcode or not isinstance(error, av.FFmpegError):
        return (error.strerror or type(error).__name__).lower()
    return f"FFmpeg failed for a reason that it does not name (error {error.errno})"
