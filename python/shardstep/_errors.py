"""The exceptions of shardstep, one for each status code of the library."""

from __future__ import annotations


class Error(RuntimeError):
    """What the library refused or could not do.

    `code` is the status code's name, such as "DEADLINE_EXCEEDED"; `cause` that of what it came from: for Aborted the
    code that another rank failed with, else `code`.
    """

    code = "UNKNOWN"

    def __init__(self, message: str, code: str = "UNKNOWN", cause: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.cause = cause or code


class InvalidArgument(Error, ValueError):
    """A value that the caller or an options text gave; the message names the field."""


class FailedPrecondition(Error):
    """A call out of order, or ranks that disagree; the message names the call or both ranks."""


class DataLoss(Error):
    """Bytes that fail verification; the message names file and chunk."""


class NotFound(Error, LookupError):
    """There is no such file, checkpoint, parameter or library."""


class PermissionDenied(Error):
    """The system refused; the message names the path."""


class ResourceExhausted(Error):
    """Something did not fit; the message names it and its size."""


class DeadlineExceeded(Error, TimeoutError):
    """A wait passed its deadline; the message names the ranks that did not arrive."""


class Aborted(Error):
    """Another rank, or abort(), ended the job; the message names the rank and its reason."""


class Unavailable(Error):
    """Something could not be reached."""


class Unimplemented(Error, NotImplementedError):
    """This build, or this kind of job, cannot do it."""


class Internal(Error):
    """A broken invariant of Shardstep itself."""


_BY_CODE = {
    "INVALID_ARGUMENT": InvalidArgument,
    "FAILED_PRECONDITION": FailedPrecondition,
    "DATA_LOSS": DataLoss,
    "NOT_FOUND": NotFound,
    "PERMISSION_DENIED": PermissionDenied,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "ABORTED": Aborted,
    "UNAVAILABLE": Unavailable,
    "UNIMPLEMENTED": Unimplemented,
    "INTERNAL": Internal,
}


def make_error(code: str, cause: str, message: str) -> Error:
    """For the native module."""
    return _BY_CODE.get(code, Error)(message, code, cause)
