"""Reading a pack of any size in flat memory: the answer of Get Pack as a stream of JSON events.

Keeps the images that are asked for and counts the rest. Tells nothing before the document is whole and right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import ijson

from ingest.api.messages import ImageRef, PackScan

if TYPE_CHECKING:
    from collections.abc import Container, Generator

__all__ = ["PackScanner"]

Reader: TypeAlias = "Generator[None, tuple[str, Any], None]"
# Takes events `(kind, value)`, as ijson's basic_parse gives them, to the end of the part that it reads.

STARTS: Final = frozenset({"start_map", "start_array"})
ENDS: Final = frozenset({"end_map", "end_array"})


class PackScanner:
    """Takes an answer in pieces of any size, and gives a `PackScan` at its end.

    `ValueError` where the answer is not what is documented; its text says what it is instead, and quotes nothing.
    """

    def __init__(self, wanted: Container[str]) -> None:
        self._wanted = wanted
        self._is_ok = False
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
        if self._name is None or self._image_count is None:
            raise ValueError("a pack without a name or without images")
        return PackScan(name=self._name, image_count=self._image_count, found=tuple(self._found))

    def _document(self) -> Reader:
        kind, _ = yield
        if kind != "start_map":
            raise ValueError("a JSON document that is no envelope")
        while (field := (yield))[0] == "map_key":
            kind, value = yield
            if field[1] == "ok":
                self._is_ok = value is True
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
        if url in self._wanted:
            self._found.append(ImageRef(image_id=image_id, url=url))


def _rest_of(kind: str) -> Reader:
    """Pass over a value that began with this event."""
    depth = 1 if kind in STARTS else 0
    while depth:
        kind = (yield)[0]
        if kind in STARTS:
            depth += 1
        elif kind in ENDS:
            depth -= 1
