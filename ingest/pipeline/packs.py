"""Packs by id or exact name: looked up within the key's scope, made where that is wanted, and found gone.

Creating by name is uncertain like an add, so a name is looked up before and after. Touches no image.
"""

from __future__ import annotations

import contextlib
import enum
import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from ingest.api.paging import read_all
from ingest.errors import GaveUp, PackUnusable, Rejected, Retryable, Uncertain, UsageError
from ingest.model import PackId
from ingest.observe.logging import get_logger
from ingest.pipeline.retry import Patient
from ingest.pipeline.scope import wrong_scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from ingest.api.client import PacksClient
    from ingest.api.messages import PackScan, PackSummary
    from ingest.errors import RequestError
    from ingest.pipeline.guard import Guard
    from ingest.pipeline.retry import Retrying

__all__ = ["PACK_GONE", "Packs", "ResolvedPack", "Sight"]

T = TypeVar("T")

log = get_logger("pipeline")

PACK_GONE: Final = "its pack was deleted, or is out of this key's sight"

MAX_NAME: Final = 120
# Characters, after trimming (API.md, Details).

MAX_CREATES: Final = 5
# Each without an answer and without the pack appearing: with the usual settle delay that is two minutes and a half.

UNUSABLE_FOR_S: Final = 60.0
# How long a name that can't be used is not asked for again: thousands of rows may hold the same mistake, and a person
# who makes the pack meanwhile need not wait for long.

MAX_UNUSABLE: Final = 10_000

LOOKS_LIKE_ID: Final = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
# The ids of API.md's examples are UUIDs; anything else is tried as a name first.


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPack:
    """A pack in scope, as it stood when it was looked up."""

    pack_id: PackId
    name: str
    image_count: int
    is_new: bool = False


class Sight(enum.Enum):
    """How a pack stands towards the key in use."""

    SEEN = "seen"
    GONE = "gone"  # this key saw it, and sees it no more
    HIDDEN = "hidden"  # another key saw it: it may lie in that one's scope, and what is owed to it waits for that key


class Packs:
    """One run's view of the packs, which is the view of the key that it has at the moment.

    `turn_away` has the requests that wait at the API's gate made anew, and put behind what comes next.
    """

    def __init__(
        self,
        client: PacksClient,
        retrying: Retrying,
        guard: Guard,
        *,
        settle_delay_s: float,
        sleep: Callable[[float], Awaitable[None]],
        turn_away: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._retrying = retrying
        self._guard = guard
        self._settle_delay_s = settle_delay_s
        self._sleep = sleep
        self._turn_away = turn_away
        self._scope = guard.scope
        self._resolved: dict[str, ResolvedPack] = {}
        self._unusable: dict[str, tuple[float, PackUnusable]] = {}
        self._lost: dict[PackId, Sight] = {}
        self._asking = anyio.Lock()

    def remember(self, packs: Mapping[PackId, str]) -> None:
        """The journal has jobs of these packs, which that key saw last."""
        self._scope.remember(packs)

    async def resolve(self, named: str, *, create: bool) -> ResolvedPack:
        """The pack of that id or exact name, within scope.

        Waits while the API refuses the key and a person is waited for: what is looked up is about to be admitted.
        Raises `PackUnusable`: none (and not `create`), several of that name, or only a public one of somebody else;
        `UsageError` where the place is wrong; `Fatal` with `wrong_scope` where a changed key sees none of the packs
        that this journal filled.
        """
        await self._guard.not_waiting()
        if (known := self._resolved.get(named)) is not None:
            return known  # the common way takes no lock
        async with self._asking:
            if (known := self._resolved.get(named)) is None:
                self._refuse_again(named)
                try:
                    with _translated():
                        known = self._resolved[named] = await self._resolve(named, create=create)
                except PackUnusable as error:
                    if len(self._unusable) >= MAX_UNUSABLE:
                        self._unusable.clear()
                    self._unusable[named] = (time.monotonic(), error)
                    raise
                self._scope.saw(known.pack_id)
                log.info("pack.resolved", pack_id=known.pack_id, name=known.name, images=known.image_count)
            return known

    def _refuse_again(self, named: str) -> None:
        """Raise what was found out about this name a moment ago."""
        found_at, error = self._unusable.get(named, (-math.inf, None))
        if error is not None and time.monotonic() - found_at < UNUSABLE_FOR_S:
            raise PackUnusable(str(error), code=error.code, hint=error.hint)

    async def sight(self, pack_id: PackId) -> Sight:
        """How a pack stands that answered 404. `Fatal` as in `resolve`; `Retryable` where the API does not tell."""
        async with self._asking:
            if pack_id not in self._lost:
                self._turn_away()  # hundreds may wait with a request for it: the question comes before them
            while pack_id not in self._lost and await self._in_scope(pack_id) is None:
                if not await self._was_wrong_scope():
                    lost = Sight.GONE if self._scope.has_seen(pack_id) else Sight.HIDDEN
                    self._lost[pack_id] = lost
                    log.error(f"pack.{lost.value}", pack_id=pack_id)
                    self._turn_away()  # who waits with a request for it need not make it
            return self.known_sight(pack_id)

    def known_sight(self, pack_id: PackId) -> Sight:
        """What `sight` has found out so far."""
        return self._lost.get(pack_id, Sight.SEEN)

    async def _resolve(self, named: str, *, create: bool) -> ResolvedPack:
        wanted = named.strip()
        if LOOKS_LIKE_ID.fullmatch(wanted) and (pack := await self._in_scope(PackId(wanted))) is not None:
            return pack
        found = await self._by_name(wanted)
        if not found and _may_be_id(wanted) and (pack := await self._in_scope(PackId(wanted))) is not None:
            return pack
        if not found:
            if await self._was_wrong_scope():
                return await self._resolve(named, create=create)
            if create:
                return await self._create(wanted)
            raise await self._unknown(wanted)
        return _only(found, wanted)

    async def _create(self, name: str) -> ResolvedPack:
        if not 1 <= len(name) <= MAX_NAME:
            raise PackUnusable(
                f"A pack can't be named {name[:40]!r}…: a name has 1 to {MAX_NAME} characters.",
                code="bad_pack_name",
                hint="Choose another name with --pack NAME.",
            )
        for attempt in range(1, MAX_CREATES + 1):
            try:
                made = await self._asked(lambda: self._client.create_pack(name))
            except Uncertain as error:
                # Not answered: it may be there, or appear within the settle delay. Only then may it be made again.
                log.warning("pack.uncertain", name=name, reason=error.reason)
                await self._sleep(self._settle_delay_s)
                if found := await self._by_name(name):
                    return _only(found, name)
                if attempt == MAX_CREATES:
                    raise _given_up(error) from error
            else:
                log.info("pack.created", pack_id=made.id, name=name)
                return ResolvedPack(pack_id=PackId(made.id), name=made.name, image_count=0, is_new=True)
        raise AssertionError("the last attempt returns or raises")

    async def _in_scope(self, pack_id: PackId) -> ResolvedPack | None:
        """The pack, if this key may change it; a public pack of somebody else can be read, and does not count."""
        scan = await self._scan(pack_id)
        if scan is None:
            return None
        own = await self._by_name(scan.name)
        if any(summary.id == pack_id for summary in own):
            return ResolvedPack(pack_id=pack_id, name=scan.name, image_count=scan.image_count)
        # Renamed between the two requests? Then it has another name by now.
        again = await self._scan(pack_id)
        return None if again is None or again.name == scan.name else await self._in_scope(pack_id)

    async def _scan(self, pack_id: PackId) -> PackScan | None:
        try:
            return await self._asked(lambda: self._client.scan_pack(pack_id, frozenset()))
        except Rejected:
            return None

    async def _by_name(self, name: str, *, include_public: bool = False) -> list[PackSummary]:
        """Every pack of exactly that name. `search` finds parts of names, and images' words: it only narrows."""

        async def page(limit: int, offset: int) -> tuple[Sequence[PackSummary], int]:
            found = await self._asked(
                lambda: self._client.list_packs(search=name, limit=limit, offset=offset, include_public=include_public)
            )
            return found.packs, found.total

        # A pack that is made meanwhile shifts the pages, and one may be told twice.
        found = {pack.id: pack for pack in await read_all(page) if pack.name == name}
        return list(found.values())

    async def _unknown(self, name: str) -> PackUnusable:
        public = await self._by_name(name, include_public=True)
        if public:
            return PackUnusable(
                f"The pack {name!r} is a public pack of somebody else ({public[0].id}); images can't be added to it.",
                code="pack_not_ours",
                hint="Name a pack of your own, or add --create-pack to make one of that name.",
            )
        return PackUnusable(
            f"There is no pack {name!r} that this key may change.",
            code="unknown_pack",
            hint="See `ingest packs list`, or add --create-pack to make it.",
        )

    async def _was_wrong_scope(self) -> bool:
        """Whether the key was one of another scope, and there is another one: look again. `Fatal` where there isn't."""
        strange = self._scope.strange
        for pack_id in strange:
            if await self._in_scope(pack_id) is not None:
                self._scope.saw(pack_id)
                return False
        if self._scope.strange:  # and no other key has come meanwhile
            await self._guard.convict(wrong_scope())
        return bool(strange)

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        return await self._retrying(call, attempts=Patient())


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """What a look for a pack that a person named ends with, where it finds nothing out."""
    try:
        yield
    except Retryable as error:
        raise _given_up(error) from error
    except Rejected as error:
        # No pack of anybody's is named in these requests: it is the place or the name that is wrong.
        raise UsageError(
            error.headline,
            code=error.reason,
            hint="Check GENVIRAL_BASE_URL, which usually ends in /api/partner/v1, and the name of the pack.",
        ) from error


def _given_up(error: RequestError) -> GaveUp:
    return GaveUp(error.headline, code=error.reason, hint="Nothing is lost: run again to continue.")


def _may_be_id(named: str) -> bool:
    return named.isascii() and named.isprintable() and not set(named) & set(" /?#%")


def _only(found: list[PackSummary], name: str) -> ResolvedPack:
    if len(found) > 1:
        told = ", ".join(f"{pack.id} ({pack.image_count} images)" for pack in found)
        raise PackUnusable(
            f"There are {len(found)} packs named {name!r}: {told}.",
            code="ambiguous_pack",
            hint="Name one of them by its id: --pack ID.",
        )
    return ResolvedPack(pack_id=PackId(found[0].id), name=found[0].name, image_count=found[0].image_count)
