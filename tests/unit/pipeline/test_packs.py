"""Packs by id or name: found, made, or told why not; and found gone, or hidden from the key."""

from __future__ import annotations

import anyio
import pytest
from pipeline_model import FLOW, Late, Stall, page, refused, silence

from ingest.api.client import PacksClient
from ingest.api.credentials import Credentials
from ingest.errors import Fatal, GaveUp, Retryable, UsageError
from ingest.model import Lane, Operation
from ingest.pipeline.gate import Gate, GatedTransport
from ingest.pipeline.guard import Guard
from ingest.pipeline.packs import Packs, Sight
from ingest.pipeline.retry import Retrying
from ingest.pipeline.scope import Scope
from ingest.pipeline.stop import Stop
from ingest.settings import ApiSettings

ID = "22222222-2222-2222-2222-222222222222"


@pytest.fixture
def stop() -> Stop:
    return Stop()


@pytest.fixture
def sleeps() -> list:
    return []


@pytest.fixture
def packs(model, metrics, stop, sleeps) -> Packs:
    model.packs.clear()
    credentials = Credentials(ApiSettings(key="tester.secret"))
    gates = {lane: Gate(lane, FLOW, rate=None, recorder=metrics) for lane in Lane}
    client = PacksClient(GatedTransport(model, gates, recorder=metrics), credentials, "http://api.test/v1")
    guard = Guard(
        gates[Lane.API],
        credentials,
        scope=Scope(PacksClient(model, credentials, "http://api.test/v1"), credentials),
        recorder=metrics,
        stop=stop,
    )

    async def sleep(delay_s: float) -> None:
        sleeps.append(delay_s)
        await anyio.lowlevel.checkpoint()

    retrying = Retrying(FLOW, gates, guard, recorder=metrics, sleep=sleep)
    return Packs(client, retrying, guard, settle_delay_s=77.0, sleep=sleep)


def add(model, pack_id: str, name: str, **fields):
    pack = model.add_pack(name, **fields)
    del model.packs[pack.pack_id]
    pack.pack_id = pack_id
    model.packs[pack_id] = pack
    return pack


@pytest.mark.parametrize("named", [ID, "Motivation", "  Motivation ", "motiv-1"])
async def test_a_pack_is_found_by_its_id_or_its_exact_name(model, packs, named):
    add(model, "motiv-1" if named == "motiv-1" else ID, "Motivation")
    found = await packs.resolve(named, create=False)
    assert (found.pack_id, found.name, found.image_count) == (next(iter(model.packs)), "Motivation", 0)
    assert not found.is_new


async def test_it_is_looked_up_once(model, packs):
    add(model, ID, "Motivation")
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(lambda: packs.resolve("Motivation", create=True))
    assert len(model.log) == 1


async def test_a_hit_of_the_search_is_no_name(model, packs):
    add(model, "a", "Motivation 2")
    add(model, "b", "motivation")
    add(model, "c", "My Motivation")
    with pytest.raises(UsageError) as raised:
        await packs.resolve("Motivation", create=False)
    assert raised.value.code == "unknown_pack"


async def test_a_name_on_a_later_page_is_found(model, packs):
    for number in range(250):
        add(model, f"pack-{number:03}", f"Motivation {number}")
    add(model, "last", "Motivation")
    assert (await packs.resolve("Motivation", create=True)).pack_id == "last"


async def test_two_of_one_name_are_for_a_person_to_choose_from(model, packs):
    add(model, "a", "Motivation")
    add(model, "b", "Motivation")
    with pytest.raises(UsageError) as raised:
        await packs.resolve("Motivation", create=True)
    assert raised.value.code == "ambiguous_pack"
    assert "a (0 images), b (0 images)" in str(raised.value)
    assert (await packs.resolve("b", create=False)).pack_id == "b"


@pytest.mark.parametrize("named", [ID, "Motivation"])
async def test_a_public_pack_of_somebody_else_is_not_ours(model, packs, named):
    add(model, ID, "Motivation", is_ours=False, is_public=True)
    with pytest.raises(UsageError) as raised:
        await packs.resolve(named, create=False)
    assert raised.value.code == ("pack_not_ours" if named == "Motivation" else "unknown_pack")


async def test_beside_a_public_one_our_own_may_be_made(model, packs):
    add(model, ID, "Motivation", is_ours=False, is_public=True)
    made = await packs.resolve("Motivation", create=True)
    assert made.is_new
    assert model.packs[made.pack_id].is_ours


@pytest.mark.parametrize("named", ["Motivation", ID, "a/b", "ä", "x?y"])
async def test_an_unknown_pack_is_told_and_nothing_is_made(model, packs, named):
    with pytest.raises(UsageError) as raised:
        await packs.resolve(named, create=False)
    assert raised.value.code == "unknown_pack"
    assert raised.value.hint
    assert model.count(Operation.CREATE_PACK) == 0


@pytest.mark.parametrize("name", ["", "   ", "x" * 121])
async def test_a_name_that_no_pack_can_have_is_told(packs, name):
    with pytest.raises(UsageError) as raised:
        await packs.resolve(name, create=True)
    assert raised.value.code == "bad_pack_name"


async def test_a_pack_is_made_where_that_is_wanted(model, packs):
    made = await packs.resolve("Motivation", create=True)
    assert made.is_new
    assert [pack.name for pack in model.packs.values()] == ["Motivation"]
    assert model.log == [Operation.LIST_PACKS, Operation.GET_PACK, Operation.CREATE_PACK]


@pytest.mark.parametrize(
    "step", [silence(effect=True), refused(500, effect=True), page(502, effect=True), page(401, effect=True)]
)
async def test_a_create_whose_effect_is_unknown_is_looked_for_a_settle_delay_later(model, packs, sleeps, step):
    model.next(Operation.CREATE_PACK, step)
    found = await packs.resolve("Motivation", create=True)
    assert list(model.packs) == [found.pack_id]
    assert sleeps == [77.0]


async def test_a_create_without_effect_is_made_again(model, packs, sleeps):
    model.next(Operation.CREATE_PACK, silence(), refused(500))
    assert (await packs.resolve("Motivation", create=True)).is_new
    assert len(model.packs) == 1
    assert sleeps == [77.0, 77.0]


async def test_a_create_that_lands_within_the_settle_delay_is_found(model, packs, monkeypatch):
    late = Late()
    model.next(Operation.CREATE_PACK, late)

    async def sleep(_delay_s: float) -> None:
        late.land()

    monkeypatch.setattr(packs, "_sleep", sleep)
    await packs.resolve("Motivation", create=True)
    assert len(model.packs) == 1


async def test_a_refused_create_is_sent_again(model, packs):
    model.next(Operation.CREATE_PACK, refused(429, retry_after="0"), silence(was_sent=False))
    assert (await packs.resolve("Motivation", create=True)).is_new
    assert len(model.packs) == 1


async def test_a_lookup_that_is_cancelled_leaves_the_rest_free(model, packs):
    add(model, ID, "Motivation")
    model.next(Operation.LIST_PACKS, stall := Stall())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: packs.resolve("Motivation", create=False))
        await stall.came.wait()
        tasks.cancel_scope.cancel()
    assert (await packs.resolve("Motivation", create=False)).pack_id == ID


# Out of sight.


KEY = "tester"  # the public part of the key in use


async def test_a_pack_that_this_key_saw_is_gone_and_asked_for_once(model, packs):
    packs.remember({"gone": KEY})
    assert packs.known_sight("gone") is Sight.SEEN  # nobody has looked
    assert await packs.sight("gone") is Sight.GONE
    requests = len(model.log)
    assert await packs.sight("gone") is packs.known_sight("gone") is Sight.GONE
    assert len(model.log) == requests


async def test_a_pack_that_this_key_never_saw_is_hidden_and_asked_for_once(model, packs):
    packs.remember({"theirs": "former", "ours": KEY})
    for pack_id in ("theirs", "unheard-of"):
        assert await packs.sight(pack_id) is Sight.HIDDEN
        requests = len(model.log)
        assert await packs.sight(pack_id) is packs.known_sight(pack_id) is Sight.HIDDEN
        assert len(model.log) == requests


async def test_a_404_in_passing_is_no_last_word(model, packs):
    pack = add(model, ID, "Motivation")
    packs.remember({ID: KEY})
    assert await packs.sight(ID) is packs.known_sight(ID) is Sight.SEEN
    del model.packs[pack.pack_id]
    assert await packs.sight(ID) is Sight.GONE


async def test_a_pack_that_was_resolved_has_been_seen(model, packs):
    pack = add(model, ID, "Motivation")
    await packs.resolve("Motivation", create=False)
    del model.packs[pack.pack_id]
    assert await packs.sight(ID) is Sight.GONE


@pytest.mark.parametrize(("seen_by", "sight"), [(KEY, Sight.GONE), ("former", Sight.HIDDEN)])
async def test_a_pack_that_is_only_public_any_more_is_out_of_sight(model, packs, seen_by, sight):
    add(model, ID, "Motivation", is_ours=False, is_public=True)
    packs.remember({ID: seen_by, "another": KEY})
    assert await packs.sight(ID) is sight


async def test_a_pack_that_is_renamed_between_the_two_requests_of_a_look_is_not_lost(model, packs):
    pack = add(model, ID, "Motivation")
    packs.remember({ID: KEY})

    async def rename(_call, do):
        pack.name = f"{pack.name} 2"
        return do()

    model.next(Operation.LIST_PACKS, rename, rename)
    assert await packs.sight(ID) is packs.known_sight(ID) is Sight.SEEN
    assert (await packs.resolve(ID, create=False)).name == "Motivation 2 2"


async def test_a_pack_that_is_deleted_between_the_two_requests_of_a_look_is_gone(model, packs):
    pack = add(model, ID, "Motivation")
    packs.remember({ID: KEY})

    async def delete(_call, do):
        del model.packs[pack.pack_id]
        return do()

    model.next(Operation.LIST_PACKS, delete)
    assert await packs.sight(ID) is Sight.GONE


@pytest.mark.parametrize("operation", [Operation.GET_PACK, Operation.LIST_PACKS])
async def test_where_the_api_does_not_tell_nothing_is_known(model, packs, operation):
    pack = add(model, ID, "Motivation")
    packs.remember({ID: KEY})
    model.always(operation, refused(409))
    with pytest.raises(Retryable):
        await packs.sight(ID)
    assert packs.known_sight(ID) is Sight.SEEN
    with pytest.raises(GaveUp):
        await packs.resolve(ID, create=True)  # here a person named it, and is told
    model.always(operation, None)
    del model.packs[pack.pack_id]
    assert await packs.sight(ID) is Sight.GONE


# Another key.


@pytest.mark.parametrize("named", ["A", "a"])
async def test_a_changed_key_that_sees_none_of_the_filled_packs_is_refused(model, packs, stop, named):
    add(model, "a", "A", is_ours=False)
    add(model, "b", "B", is_ours=False)
    packs.remember({"a": "former", "b": "former"})
    with pytest.raises(Fatal) as raised:
        await packs.resolve(named, create=True)
    assert raised.value.reason == "wrong_scope"
    assert [reason.code for reason in stop._reasons] == ["wrong_scope"]
    assert model.count(Operation.CREATE_PACK) == 0


async def test_ten_packs_tell_the_scope(model, packs):
    packs.remember({f"pack-{number}": "former" for number in range(1000)})
    with pytest.raises(Fatal, match="another workspace"):
        await packs.sight("pack-999")
    assert model.count(Operation.GET_PACK) == 1 + 10


async def test_a_changed_key_that_sees_one_of_them_is_of_the_same_scope(model, packs, stop):
    add(model, "a", "A", is_ours=False)
    add(model, "b", "B")
    packs.remember({"a": "former", "b": "former"})
    assert (await packs.resolve("C", create=True)).is_new
    assert not stop.is_requested
    # What the former key saw, this one sees: it is no other scope that hides it.
    assert await packs.sight("a") is Sight.GONE


async def test_a_changed_key_that_saw_one_of_them_is_of_the_same_scope_though_another_is_gone(model, packs, stop):
    add(model, "a", "A")
    packs.remember({"a": "former", "b": "former", "c": "of another"})
    assert (await packs.resolve("A", create=False)).pack_id == "a"
    assert await packs.sight("b") is Sight.GONE
    assert await packs.sight("c") is Sight.HIDDEN
    assert not stop.is_requested


async def test_a_key_that_the_journal_knows_is_never_refused(model, packs, stop):
    """It has packs of its own here, though all that other keys filled are out of its sight, and its own are gone."""
    packs.remember({"theirs": "former", "ours": KEY})
    assert (await packs.resolve("C", create=True)).is_new
    assert await packs.sight("theirs") is Sight.HIDDEN
    assert await packs.sight("ours") is Sight.GONE
    assert not stop.is_requested


async def test_under_a_key_of_another_scope_no_pack_is_gone(model, packs, stop):
    add(model, "a", "A", is_ours=False)
    packs.remember({"a": "former"})
    refusals = []

    async def ask() -> None:
        with pytest.raises(Fatal):
            await packs.sight("a")
        refusals.append(1)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)
    assert len(refusals) == 10
    assert packs.known_sight("a") is Sight.SEEN
    assert {reason.code for reason in stop._reasons} == {"wrong_scope"}
