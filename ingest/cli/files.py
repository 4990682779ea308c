"""`ingest files …`: what was uploaded with this key, and uploading without adding to a pack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ingest.cli import options, output, values
from ingest.cli.origins import told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ingest.api.messages import FileEntry
    from ingest.assemble import Connection

__all__ = ["app"]

app = typer.Typer(
    help="List uploaded files, and upload some.",
    epilog="Examples:\n\ningest files list --limit 10\n\ningest files upload cover.jpg --json",
)


@app.command("list")
def list_files(
    ctx: typer.Context,
    *,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = None,
    kind: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only files of this type.")] = None,
    context: Annotated[str | None, typer.Option("--context", metavar="TEXT", help="Only of this context.")] = None,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """List the files that were uploaded with this key."""
    import msgspec  # noqa: PLC0415 - loaded when a command runs

    from ingest.api.paging import read_all  # noqa: PLC0415
    from ingest.cli import calling  # noqa: PLC0415

    async def question(connection: Connection) -> list[FileEntry]:
        async def page(size: int, offset: int) -> tuple[Sequence[FileEntry], int]:
            found = await connection.ask(
                lambda: connection.client.list_files(limit=size, offset=offset, file_type=kind, context=context)
            )
            return found.files, found.total

        return await read_all(page, most=limit)

    origins = told(ctx)
    found = calling.ask(origins, question)
    if origins.one("json", values.truth, False):
        for file in found:
            output.json_line(msgspec.to_builtins(file))
        return
    output.table(
        ("ID", "NAME", "TYPE", "BYTES", "CREATED", "URL"),
        [(file.id, file.filename, file.content_type, file.size_bytes, file.created_at, file.url) for file in found],
    )


@app.command()
def upload(
    ctx: typer.Context,
    *,
    file: Annotated[list[str], typer.Argument(metavar="FILE...", help="Image files.")],
    max_bytes: Annotated[
        str | None, typer.Option("--max-bytes", metavar="SIZE", show_default="50MiB", help="Larger ones are refused.")
    ] = None,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Upload image files and print their URLs, without adding them to a pack.

    Stops at the first file that can't be uploaded; what was printed before is there.
    """
    from ingest.cli import calling, uploading  # noqa: PLC0415 - loads the network

    origins = told(ctx)
    is_json = origins.one("json", values.truth, False)
    calling.ask(origins, uploading.of(file, origins, is_json=is_json))
