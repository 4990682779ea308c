"""Reading a pack of any size in flat memory: the answer of Get Pack as a stream of JSON events.

Keeps the images that are asked for and counts the rest. Tells nothing before the document is whole and right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import ijson

from ingest.api.messages import ImageRef, PackScan
from ingest.policy.spelling import Spellings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

__all__ = ["PackScanner", "is_same_pack"]

Reader: TypeAlias = "Generator[None, tuple[str, Any], None]"
# Takes events `(kind, value)`, as ijson's basic_parse gives them, to the end of the part that it reads.

STARTS: Final = frozenset({"start_map", "start_array"})
ENDS: Final = frozenset({"end_map", "end_array"})


class PackScanner:
    """Takes an answer of status 200 about that pack in pieces of any size, and gives a `PackScan` at its end.

    `on_url` hears of every image's url, as the server spells it.
    An image whose url the server spells in another way (`%28` or `(`) is found under the url as it is wanted.
    `ValueError` where the answer is not what is documented; its text says what it is instead, and quotes nothing.
    """

    def __init__(self, pack_id: str, wanted: Collection[str], *, on_url: Callable[[str], None] | None = None) -> None:
        self._asked_for = pack_id
        self._on_url = on_url
        self._wanted = Spellings(wanted)
        self._is_ok = False
        self._code: object = None
        self._pack_id: str | None = None
        self._name: str | None = None
        self._image_count: int | None = None
        self._found: list[ImageRef] = []
        document = self._document()
        next(document)  # to its first `yield`, where it takes events
        # As floats, numbers that 64 bits can't hold are JSON errors; as exact ones, whatever `decimal` makes of them.
        self._parser = ijson.basic_parse_coro(document, use_float=True)

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the answer."""
        try:
            self._parser.send(piece)
        except (ijson.JSONError, UnicodeDecodeError):
            raise ValueError("a body that is no JSON document") from None

    def finish(self) -> PackScan:
        """The result, once the whole answer was fed."""
        try:
            self._parser.close()
        except (ijson.JSONError, UnicodeDecodeError):
            raise ValueError("a JSON document that was cut short") from None
        if not self._is_ok:
            raise ValueError("an envelope that does not say ok")
        if self._code not in {None, 200}:
            raise ValueError("an envelope with the code of another status")
        if self._pack_id is None or self._name is None or self._image_count is None:
            raise ValueError("a pack without an id, a name or images")
        if not is_same_pack(self._pack_id, self._asked_for):
            raise ValueError("a pack other than the one that was asked for")
        return PackScan(name=self._name, image_count=self._image_count, found=tuple(self._found))

    def _document(self) -> Reader:
        kind, _ = yield
        if kind != "start_map":
            raise ValueError("a JSON document that is no envelope")
        while (field := (yield))[0] == "map_key":
            kind, value = yield
            if field[1] == "ok":
                self._is_ok = value is True
            elif field[1] == "code":
                self._code = value if kind in {"number", "null"} else kind
            if field[1] == "data" and kind == "start_map":
                yield from self._pack()
            else:
                yield from _rest_of(kind)
        while True:
            yield  # Another document would be an error of the parser's.

    def _pack(self) -> Reader:
        while (field := (yield))[0] == "map_key":
            kind, value = yield
            if field[1] == "name" and kind == "string":
                self._name = value
            elif field[1] == "id" and kind == "string":
                self._pack_id = value
            if field[1] == "images" and kind == "start_array":
                yield from self._images()
            else:
                yield from _rest_of(kind)

    def _images(self) -> Reader:
        self._found.clear()
        self._image_count = 0
        while (kind := (yield)[0]) != "end_array":
            if kind != "start_map":
                raise ValueError("a pack with an image that is no object")
            yield from self._image()
            self._image_count += 1

    def _image(self) -> Reader:
        image_id = url = None
        while (field := (yield))[0] == "map_key":
            kind, value = yield
            if kind == "string":
                if field[1] == "id":
                    image_id = value
                elif field[1] == "url":
                    url = value
            else:
                yield from _rest_of(kind)
        if image_id is None or url is None:
            raise ValueError("a pack with an image that has no id or no url")
        if self._on_url is not None:
            self._on_url(url)
        if (meant := self._wanted.meant(url)) is not None:
            self._found.append(ImageRef(image_id=image_id, url=meant))


def is_same_pack(answered_id: str, asked_id: str) -> bool:
    """Whether an answer is about the pack that was asked for. A person may type an id in capitals."""
    return answered_id == asked_id or answered_id.casefold() == asked_id.casefold()


def _rest_of(kind: str) -> Reader:
    """Pass over a value that began with this event."""
    depth = 1 if kind in STARTS else 0
    while depth:
        kind = (yield)[0]
        if kind in STARTS:
            depth += 1
        elif kind in ENDS:
            depth -= 1
