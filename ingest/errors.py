"""The error tree: every class answers *what to do next*, not what happened.

Foreign errors are translated into this tree once, at the edge where they arise, with the cause chained. Nothing here
does I/O or decides anything.

    IngestError
    ├── RequestError            one request ended without its result
    │   ├── Retryable           send it again, not before `retry_after_s`
    │   ├── Rejected            never send it again: it can't work for this job
    │   ├── Fatal               send nothing until a person has acted
    │   └── Uncertain           look whether it took effect before sending it again
    ├── ImageError              one file can't be used as it is
    │   ├── ImageRejected       never: it is no image that a pack takes
    │   ├── ImageUnreadable     another day: this machine could not read it
    │   │   └── ImageUnreachable  or a little later: the host of its URL did not hand it over
    │   └── ImageChanged        inspect it again: it changed while it was read
    └── StopError               the run ends, with this exit code
        ├── TooManyRejected     1: look why so many are rejected
        ├── UsageError          2: change the command or its settings
        │   ├── PackUnusable    2: name another pack
        │   ├── JournalNewer    2: use a newer version of the program
        │   └── JournalCorrupt  2: the file is no journal
        ├── Refused             3: the API refuses this key, plan or tier
        ├── MachineError        74: this machine can't go on
        └── GaveUp              75: run again to continue
            └── JournalInUse    75: another process has the journal
"""

from __future__ import annotations

import enum
import errno
from typing import Final

__all__ = [
    "BUG_EXIT_CODE",
    "MACHINE_ERRNOS",
    "MACHINE_HINT",
    "Fatal",
    "GaveUp",
    "ImageChanged",
    "ImageError",
    "ImageRejected",
    "ImageUnreachable",
    "ImageUnreadable",
    "IngestError",
    "JournalCorrupt",
    "JournalInUse",
    "JournalNewer",
    "MachineError",
    "PackUnusable",
    "Refused",
    "Rejected",
    "RequestError",
    "RequestFailure",
    "Retryable",
    "StopError",
    "TooManyRejected",
    "Uncertain",
    "UsageError",
]


class IngestError(Exception):
    """The root. `str(error)` is one or two lines for a person: what was tried, what came back, what to change."""


class RequestFailure(enum.StrEnum):
    """How a request ended without a usable answer; also the value of the metric label `status`."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    TLS = "tls"
    UNREADABLE = "unreadable"


class RequestError(IngestError):
    """One request to the Partner API or to the storage ended without its result.

    `operation` names the kind of request, as `model.Operation` does; `status` is the HTTP status, None without one;
    `error_code` the API's own word or the storage's, None without one; `failure` says why there is no usable answer,
    None where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        operation: str,
        status: int | None = None,
        error_code: str | None = None,
        failure: RequestFailure | None = None,
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.status = status
        self.error_code = error_code
        self.failure = failure

    @property
    def headline(self) -> str:
        """What was tried and what came back, without what to do: for those who know better what that is."""
        return str(self).partition("\n")[0]

    @property
    def reason(self) -> str:
        """A short word for journals and metrics: the API's code, else the kind of failure, else the status."""
        if self.error_code is not None:
            return self.error_code
        if self.failure is not None:
            return self.failure.value
        return f"http_{self.status}"

    @property
    def is_answer(self) -> bool:
        """Whether an answer came back that speaks of this one request: not silence, and no limit."""
        return self.status is not None and self.status != 429


class Retryable(RequestError):
    """Send the same request again, not before `retry_after_s` seconds (None: the sender chooses)."""

    def __init__(
        self,
        message: str,
        *,
        operation: str,
        status: int | None = None,
        error_code: str | None = None,
        failure: RequestFailure | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, operation=operation, status=status, error_code=error_code, failure=failure)
        self.retry_after_s = retry_after_s


class Rejected(RequestError):
    """The API's own word that this request can never work: 400, 404, 413 or 422 in its envelope."""


class Fatal(RequestError):
    """The API's own word that no request can work until a person acts: 401, 402 or 403 in its envelope."""


class Uncertain(RequestError):
    """A request with a lasting effect was sent, and whether it took effect is unknown: look before sending again."""


class ImageError(IngestError):
    """One file can't be used as it is; `reason` is a short word for the journal."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ImageRejected(ImageError):
    """The bytes are no image that a pack takes: `empty`, `not_an_image`, `not_a_file`, `cut_short`, …"""


class ImageUnreadable(ImageError):
    """This machine could not read the file (`missing`, `permission_denied`, `io_error`); a later run may."""


class ImageUnreachable(ImageUnreadable):
    """The host of its URL did not hand it over (`connect`, `timeout`, `http_503`, …): ask again, a few times.

    Not before `retry_after_s` seconds; None: whoever asks chooses. With `is_host_down` it was not even asked, because
    others were asked in vain so often: leave it to another run.
    """

    def __init__(
        self, message: str, *, reason: str, retry_after_s: float | None = None, is_host_down: bool = False
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after_s = retry_after_s
        self.is_host_down = is_host_down


class ImageChanged(ImageError):
    """The file changed between two looks at it (`changed`): inspect it again."""


BUG_EXIT_CODE: Final = 70
"""How a command ends that met an error of no class here: a traceback was written, and the journal is safe."""


class StopError(IngestError):
    """The run ends with `exit_code`; `code` names it for programs and `hint` says what to do, for people."""

    exit_code = BUG_EXIT_CODE

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


class TooManyRejected(StopError):
    """As many jobs were rejected as the user allows."""

    exit_code = 1


class UsageError(StopError):
    """Wrong usage or settings; no image was sent."""

    exit_code = 2


class PackUnusable(UsageError):
    """No pack, none of that name, several, or one that this key may not change: of one row of a manifest, only that row
    is refused.
    """


class JournalNewer(UsageError):
    """The journal was written by a newer version of the program."""


class JournalCorrupt(UsageError):
    """The file is no journal, or a damaged one."""


class Refused(StopError):
    """The API refuses this key, plan or tier: a person must act; jobs stay pending."""

    exit_code = 3


MACHINE_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the system says where the machine is at fault, and not the place: another path would not mend it."""

MACHINE_HINT: Final = "Make room on the disk (or mend it) and run the same command again; nothing is lost."


class MachineError(StopError):
    """This machine can't go on (disk full, journal unwritable); jobs stay pending."""

    exit_code = 74


class GaveUp(StopError):
    """Given up for the time being (API unreachable, checks still due); run again to continue."""

    exit_code = 75


class JournalInUse(GaveUp):
    """Another process has the journal."""
