"""What `files upload` does: inspect, reserve and put, one file after the other."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ingest.cli import output, values
from ingest.images.inspect import inspect
from ingest.images.memory import MemoryBudget
from ingest.model import Locator
from ingest.observe.text import printable
from ingest.settings import ImageSettings
from ingest.sources.selection import file_name

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.messages import UploadTicket
    from ingest.assemble import Connection
    from ingest.cli.origins import Origins
    from ingest.images.inspect import Inspected

__all__ = ["of"]


def of(paths: Sequence[str], origins: Origins, *, is_json: bool) -> Callable[[Connection], Coroutine[None, None, None]]:
    """The upload of these files, as a question for `calling`; prints each URL as soon as its file is there."""
    settings = ImageSettings(max_bytes=origins.one("max-bytes", values.size_bytes, ImageSettings().max_bytes))

    async def question(connection: Connection) -> None:
        memory = MemoryBudget(settings.max_memory_bytes)
        for path in paths:
            with await inspect(Locator(os.path.abspath(path)), settings, memory) as image:  # noqa: ASYNC240, PTH100 - text only
                ticket = await connection.ask(partial(_sent, connection.client, image, file_name(path)))
                _print(path, ticket, image, is_json=is_json)

    return question


async def _sent(client: PacksClient, image: Inspected, name: str) -> UploadTicket:
    """Reserve and put; again is harmless, and the only way after a ticket that is out of date."""
    size = image.size_bytes
    ticket = await client.upload_file(image.content_type, filename=name, size_bytes=size)
    await client.put_file(ticket, image.body, content_type=image.content_type, content_length=size)
    return ticket


def _print(path: str, ticket: UploadTicket, image: Inspected, *, is_json: bool) -> None:
    if is_json:
        told = {"file": path, "url": ticket.url, "contentType": image.content_type, "size": image.size_bytes}
        output.json_line(told)
    else:
        output.line(f"{ticket.url}  {printable(path)}")
    output.flush()
