"""The promise as a state machine: the real pipeline against every fate of its requests, its commits and itself.

`INGEST_MODEL_EXAMPLES=10000 pytest -n 0 tests/model` runs as many examples as it says.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import POSSIBLE, SETTLE_S, UNCERTAIN, Fate, Process, Request, World

from ingest.model import Operation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

EXAMPLES = int(os.environ.get("INGEST_MODEL_EXAMPLES", "100"))

MAX_ROUNDS = 2000
# More than any of these runs needs: a run that takes longer does not end.

LINK = st.tuples(st.integers(0, 1), st.sampled_from([None, "x", "y"]), st.integers(0, 2))
"""A URL for a pack, under its own name or one of a caller's."""


def ordered(fates: Iterable[Fate]) -> list[Fate]:
    """The same order every time, the harmless ones first: an example can be repeated, and shrinks well."""
    return sorted(fates, key=list(Fate).index)


class Promise(RuleBasedStateMachine):
    """Two packs, four files of three contents, two URLs in three spellings, a server with every fault, and processes
    that die.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    # People.

    @initialize(
        contents=st.lists(st.integers(0, 2), max_size=4),
        links=st.lists(LINK, max_size=4),
        held=st.none() | st.tuples(st.integers(0, 1), st.integers(0, 2)),
        data=st.data(),
    )
    def begin(
        self, contents: list[int], links: list[tuple[int, str | None, int]], held: tuple[int, int] | None, data: Any
    ) -> None:
        if held is not None:
            self.world.hold(*held)
        for link in links:
            self.world.name_url(*link)
        # A few kinds of fault at a time reach deeper than all of them at once (A. Groce et al., "Swarm Testing", 2012).
        self.weather = {
            operation: data.draw(st.lists(st.sampled_from(ordered(fates)), min_size=1, max_size=most), str(operation))
            for operation, fates, most in (
                (Operation.ADD_IMAGE, UNCERTAIN, 2),
                (Operation.GET_PACK, POSSIBLE[Operation.GET_PACK], 2),
                (Operation.DELETE_IMAGE, POSSIBLE[Operation.DELETE_IMAGE], 2),
            )
        }
        for number, content in enumerate(contents):
            self.world.put_file(number % 2 if number > 1 else 0, f"/{number}", content)
        if not contents and not links:
            self.world.put_file(0, "/0", 0)
        self.start(concurrency=2, batch_size=8)
        self._to_an_add()

    @rule(pack=st.integers(0, 1), number=st.integers(0, 3), content=st.integers(0, 2))
    def change_a_file(self, pack: int, number: int, content: int) -> None:
        self.world.put_file(pack, f"/{number}", content)

    @rule(link=LINK)
    def name_a_url(self, link: tuple[int, str | None, int]) -> None:
        self.world.name_url(*link)

    @rule(nth=st.integers(0, 3))
    def copy_an_image_by_hand(self, nth: int) -> None:
        self.world.copy_by_hand(nth)

    @precondition(lambda self: self.world.process is None)
    @rule()
    def retry_what_failed(self) -> None:
        self.world.retry_failed()

    # Processes.

    @precondition(lambda self: self.world.process is None)
    @rule(concurrency=st.integers(1, 3), batch_size=st.sampled_from([1, 8]))
    def start(self, concurrency: int, batch_size: int) -> None:
        process = Process(self.world, concurrency=concurrency, batch_size=batch_size)
        self.world.process = None if process.is_over else process

    @precondition(lambda self: self.world.process is not None)
    @rule(data=st.data())
    def kill(self, data: Any) -> None:
        self.world.process.kill(lambda request: self._drawn(data, request))

    @precondition(lambda self: self.world.process is not None)
    @rule()
    def ask_to_stop(self) -> None:
        self.world.process.ask_to_stop()

    # What they wait for.

    @precondition(lambda self: self.world.process is not None and self.world.process.requests)
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        requests = self.world.process.requests
        request = requests[data.draw(st.integers(0, len(requests) - 1), label="which")]
        self.world.process.answer(request, self._drawn(data, request))

    @precondition(lambda self: self.world.process is not None and self.world.process.commits)
    @rule(count=st.integers(1, 3))
    def commit(self, count: int) -> None:
        self.world.process.commit(count)

    @rule(rounds=st.integers(1, 5), data=st.data())
    def go_on(self, rounds: int, data: Any) -> None:
        """For so many rounds all that waits is committed and answered, as the weather is."""
        self._flow(rounds, lambda request: self._weathered(data, request))

    @rule(rounds=st.integers(1, 5), nth=st.integers(0, 3), data=st.data())
    def go_on_while_somebody_copies(self, rounds: int, nth: int, data: Any) -> None:
        self.go_on(rounds, data)
        self.world.copy_by_hand(nth)

    @rule(rounds=st.integers(1, 5), data=st.data())
    def go_on_until_killed(self, rounds: int, data: Any) -> None:
        self.go_on(rounds, data)
        if self.world.process is not None:
            self.kill(data)
            self.start(concurrency=2, batch_size=8)
            self._to_an_add()

    @rule(seconds=st.sampled_from([0.5, 4.0, SETTLE_S, 2 * SETTLE_S]))
    def wait(self, seconds: float) -> None:
        self.world.move_to(self.world.now + seconds)

    def _drawn(self, data: Any, request: Request) -> Fate:
        return data.draw(st.sampled_from(ordered(self.world.fates(request))), label=str(request.operation))

    def _weathered(self, data: Any, request: Request) -> Fate:
        usual = [fate for fate in self.weather.get(request.operation, ()) if fate in self.world.fates(request)]
        if not usual:
            return Fate.DONE
        return data.draw(st.sampled_from([Fate.DONE, *usual]), label=str(request.operation))

    def _to_an_add(self) -> None:
        """To where it becomes interesting: before an add there is little that could go wrong for good."""
        for _ in range(20):
            process = self.world.process
            if process is None or any(request.place is not None for request in process.requests):
                return
            self._flow(1)

    def _flow(self, rounds: int, fate: Callable[[Request], Fate] = lambda _: Fate.DONE) -> bool:
        """Commit and answer for so many rounds, as they come; whether the run has ended by then."""
        for _ in range(rounds):
            process = self.world.process
            if process is None:
                return True
            if process.commits:
                process.commit()
            elif process.requests:
                for request in list(process.requests):
                    if request in process.requests:
                        process.answer(request, fate(request))
            else:
                assert process.next_timer < float("inf"), "the run waits for nothing, and does not end"
                self.world.move_to(process.next_timer)
        return self.world.process is None

    # What must hold.

    @invariant()
    def nothing_is_violated(self) -> None:
        assert not self.world.violations, self.world.violations

    def teardown(self) -> None:
        """Let it end well, and look."""
        if not self.world.files and not self.world.links:
            return
        if self.world.process is not None:
            assert self._flow(MAX_ROUNDS), "the run does not end"
        for _ in range(4):
            self.start(concurrency=3, batch_size=8)
            last = self.world.process
            assert self._flow(MAX_ROUNDS), "the run does not end"
            self.nothing_is_violated()
            if last is not None and last.summary is not None and last.summary.exit_code == 0:
                break
        assert last.summary.exit_code in {0, 1}, last.summary
        self.world.move_to(self.world.now + 10 * SETTLE_S)
        self.world.check_end()


TestPromise = Promise.TestCase
TestPromise.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
