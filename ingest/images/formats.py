"""The type of an image, told from its content, and whether all of it is there.

Pure: is fed bytes, opens nothing, and believes no name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from ingest.images.signatures import HEAD_BYTES, identify
from ingest.images.structure import Structure

if TYPE_CHECKING:
    from ingest.images.signatures import Kind
    from ingest.model import ContentType

__all__ = ["HEAD_BYTES", "Detector", "Reason", "Unusable", "looks_like_image", "type_of"]

Reason: TypeAlias = Literal["empty", "not_an_image", "unsupported_type", "cut_short"]

_TAKEN: Final = "packs take JPEG, PNG, GIF, WebP, HEIC and HEIF"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """Why bytes are no image that a pack takes; `detail` goes on after the file's name in a message."""

    reason: Reason
    detail: str


class Detector:
    """Tells the type of one file from its bytes, fed in order and in chunks of any size; keeps a few KiB at most."""

    def __init__(self) -> None:
        self._head: bytes | None = b""  # what came before there was enough to tell the kind
        self._structure: Structure | None = None
        self._name = ""  # of the kind
        self._verdict: ContentType | Unusable = Unusable(reason="empty", detail="is empty")

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._head is not None:
            self._head += chunk
            if len(self._head) >= HEAD_BYTES:
                self._begin(self._head)
        elif self._structure is not None:
            self._structure.feed(chunk)

    def finish(self) -> ContentType | Unusable:
        """The verdict over everything fed; call it once, at the end."""
        if self._head:
            self._begin(self._head)
        if self._structure is not None and not self._structure.is_whole:
            return Unusable(reason="cut_short", detail=f"begins as {self._name} and is cut short; copy it again")
        return self._verdict

    def _begin(self, start: bytes) -> None:
        self._head = None
        kind = identify(start[:HEAD_BYTES])
        self._verdict = _verdict(kind)
        if kind is not None and kind.content_type is not None:
            self._name = kind.name
            self._structure = Structure(kind.content_type)
            self._structure.feed(start)


def type_of(head: bytes) -> ContentType | Unusable:
    """The verdict over what begins with `head` (its first `HEAD_BYTES`, or all of it), if the rest is there."""
    return _verdict(identify(head[:HEAD_BYTES])) if head else Unusable(reason="empty", detail="is empty")


def _verdict(kind: Kind | None) -> ContentType | Unusable:
    if kind is None:
        return Unusable(reason="not_an_image", detail=f"is not an image; {_TAKEN}")
    if kind.content_type is not None:
        return kind.content_type
    reason: Reason = "not_an_image" if kind.family == "page" else "unsupported_type"
    return Unusable(reason=reason, detail=f"is {kind.name}; {_TAKEN}")


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins with `head` (its first `HEAD_BYTES`, or all of it) is a picture of any known kind."""
    kind = identify(head[:HEAD_BYTES])
    return kind is not None and kind.family == "image"
