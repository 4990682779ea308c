"""`ingest packs …`: the seven pack endpoints, one command each.

Packs are named by id here; names are for `run`. Reads and changes no journal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import typer

from ingest.cli import options, output, values
from ingest.cli.origins import told

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from ingest.api.messages import AddedImage, Pack, PackSummary
    from ingest.assemble import Connection
    from ingest.cli.origins import Origins

__all__ = ["app"]

T = TypeVar("T")

app = typer.Typer(
    help="List, read, make, change and delete packs.",
    epilog="Examples:\n\ningest packs list --search gym\n\ningest packs create Holiday\n\ningest packs get ID --json",
    no_args_is_help=False,
)

PackArgument: TypeAlias = Annotated[str, typer.Argument(metavar="PACK", help="The pack's id.")]
Public: TypeAlias = Annotated[bool | None, typer.Option("--public/--private", help="Whether others can see it.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


@app.command("list")
def list_packs(
    ctx: typer.Context,
    *,
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Part of a name, description or keyword.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = None,
    public: Annotated[bool, typer.Option("--public/--no-public", help="Other people's public packs, too.")] = False,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """List the packs that this key sees."""
    from ingest.api.paging import read_all  # noqa: PLC0415 - loaded when a command runs

    async def question(connection: Connection) -> list[PackSummary]:
        async def page(size: int, offset: int) -> tuple[Sequence[PackSummary], int]:
            found = await connection.ask(
                lambda: connection.client.list_packs(search=search, limit=size, offset=offset, include_public=public)
            )
            return found.packs, found.total

        return await read_all(page, most=limit)

    origins, found = _asked(ctx, question)
    if _is_json(origins):
        _print_json(*found)
        return
    output.table(
        ("ID", "NAME", "IMAGES", "PUBLIC", "CREATED"),
        [(pack.id, pack.name, pack.image_count, _yes(pack.is_public), pack.created_at) for pack in found],
    )


@app.command()
def get(
    ctx: typer.Context,
    *,
    pack: PackArgument,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Show a pack and its images, in their order."""

    async def question(connection: Connection) -> Pack:
        return await connection.ask(lambda: connection.client.get_pack(pack))

    origins, found = _asked(ctx, question)
    if _is_json(origins):
        _print_json(found)
        return
    _print_pack(found)
    if found.images:
        output.line()
        rows = [
            (
                image.id,
                image.url,
                image.metadata and image.metadata.status,
                image.metadata and image.metadata.description,
            )
            for image in found.images
        ]
        output.table(("IMAGE", "URL", "STATUS", "DESCRIPTION"), rows)


@app.command()
def create(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="1 to 120 characters; need not be unique.")],
    public: Public = None,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Make a pack."""

    async def question(connection: Connection) -> Pack:
        return await connection.ask(lambda: connection.client.create_pack(name, is_public=bool(public)))

    _show_pack(*_asked(ctx, question))


@app.command()
def update(
    ctx: typer.Context,
    *,
    pack: PackArgument,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Its new name.")] = None,
    public: Public = None,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Change a pack's name, or who can see it."""

    async def question(connection: Connection) -> Pack:
        return await connection.ask(lambda: connection.client.update_pack(pack, name=name, is_public=public))

    _show_pack(*_asked(ctx, question))


@app.command()
def delete(
    ctx: typer.Context,
    *,
    pack: PackArgument,
    yes: Yes = False,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Delete a pack and what it holds."""

    async def question(connection: Connection) -> None:
        await connection.ask(lambda: connection.client.delete_pack(pack))

    output.confirm(f"Delete the pack {pack} and what it holds?", is_confirmed=yes)
    origins, _ = _asked(ctx, question)
    _show_deleted(origins, pack)


@app.command()
def add_image(
    ctx: typer.Context,
    *,
    pack: PackArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="A public URL of the image; it stays where it is.")],
    file_name: Annotated[
        str | None, typer.Option("--file-name", metavar="NAME", show_default="image", help="What the pack shows.")
    ] = None,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Add one image by its URL. Adding a URL twice makes two images; `ingest run` is for files."""

    async def question(connection: Connection) -> AddedImage:
        return await connection.ask(lambda: connection.client.add_image(pack, url, file_name))

    origins, added = _asked(ctx, question)
    if _is_json(origins):
        _print_json(added)
    else:
        output.table(("ID", "URL", "FILE NAME"), [(added.id, added.url, added.file_name)])


@app.command()
def delete_image(
    ctx: typer.Context,
    *,
    pack: PackArgument,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image's id: see `ingest packs get PACK`.")],
    yes: Yes = False,
    json: options.JsonLines = None,
    timeout: options.Timeout = None,
    config: options.Config = None,
) -> None:
    """Take one image out of a pack."""

    async def question(connection: Connection) -> None:
        await connection.ask(lambda: connection.client.delete_image(pack, image))

    output.confirm(f"Delete the image {image} from its pack?", is_confirmed=yes)
    origins, _ = _asked(ctx, question)
    _show_deleted(origins, image)


def _asked(ctx: typer.Context, question: Callable[[Connection], Coroutine[None, None, T]]) -> tuple[Origins, T]:
    from ingest.cli import calling  # noqa: PLC0415 - loads the network

    origins = told(ctx)
    return origins, calling.ask(origins, question)


def _is_json(origins: Origins) -> bool:
    return origins.one("json", values.truth, False)


def _print_json(*found: object) -> None:
    import msgspec  # noqa: PLC0415 - loaded with the network

    for item in found:
        output.json_line(msgspec.to_builtins(item))


def _show_pack(origins: Origins, pack: Pack) -> None:
    if _is_json(origins):
        _print_json(pack)
    else:
        _print_pack(pack)


def _print_pack(pack: Pack) -> None:
    row = (pack.id, pack.name, pack.image_count, _yes(pack.is_public), pack.created_at)
    output.table(("ID", "NAME", "IMAGES", "PUBLIC", "CREATED"), [row])


def _show_deleted(origins: Origins, deleted: str) -> None:
    if _is_json(origins):
        output.json_line({"id": deleted, "deleted": True})
    else:
        output.line(f"deleted {deleted}")


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
