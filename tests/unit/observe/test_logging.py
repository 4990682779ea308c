"""Logging: what reaches the stream, what never does, and that nobody waits or is left changed."""

import io
import json
import logging
import re
import threading

import pytest

from ingest.observe import logging as observe_logging
from ingest.observe import writer as observe_writer
from ingest.observe.logging import configure, get_logger

log = get_logger("pipeline")


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Unshown:
    """A value that counts how often someone wanted to see it."""

    shown = 0

    def __str__(self):
        type(self).shown += 1
        return "shown"

    __repr__ = __str__


def fail(error, cause=None):
    raise error from cause


def written(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def plain_environment(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_json_line_says_everything_in_order():
    stream = io.StringIO()
    with configure("json", "debug", stream):
        log.info("job.settled", job=17, outcome="added", nested={"a": [1, None]})
        log.bind(run="r1").debug("claim.taken", jobs=2)
    settled, taken = written(stream)
    assert list(settled) == ["timestamp", "level", "logger", "event", "job", "outcome", "nested"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", settled.pop("timestamp"))
    assert settled == {
        "level": "info",
        "logger": "ingest.pipeline",
        "event": "job.settled",
        "job": 17,
        "outcome": "added",
        "nested": {"a": [1, None]},
    }
    assert taken["level"] == "debug"
    assert (taken["run"], taken["jobs"]) == ("r1", 2)


def test_every_line_is_one_strict_json_object_whatever_the_values():
    def refuse(word):
        raise AssertionError(word)

    stream = io.StringIO()
    with configure("json", "info", stream):
        log.info("x.seen", a=float("nan"), b="line\nbreak", c="\udcff", d=object(), e=b"\x00", f={1: 2}, g="\x1b[2J")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1
    assert "\\udcff" not in lines[0]  # a lone surrogate is no strict JSON
    assert json.loads(lines[0], parse_constant=refuse)["g"] == "\x1b[2J"


def test_records_of_others_below_ingest_are_written_too():
    stream = io.StringIO()
    with configure("json", "info", stream):
        logging.getLogger("ingest.elsewhere").warning("gave %d", 3)
    assert written(stream)[0]["event"] == "gave 3"


def test_a_traceback_is_one_field():
    stream = io.StringIO()
    with configure("json", "info", stream):
        try:
            fail(RuntimeError("broke"), KeyError("cause"))
        except RuntimeError as error:
            log.exception("job.broke", job=1)
            log.warning("job.broke", exc_info=error)
    for line in written(stream):
        assert line["exception"].startswith("KeyError: 'cause'")
        assert line["exception"].endswith("RuntimeError: broke")
        assert "Traceback" in line["exception"]


def test_no_exception_in_hand_is_no_field():
    stream = io.StringIO()
    with configure("json", "info", stream):
        log.warning("job.broke", exc_info=True)  # noqa: LOG014 - the case under test
    assert "exception" not in written(stream)[0]


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_secret_is_written(form):
    stream = io.StringIO()
    signed = "https://cdn.example/a.jpg?X-Amz-Signature=deadbeef"
    with configure(form, "debug", stream, secrets=["k3y.first"]) as logs:
        logs.register_secret("r0tated")
        logging.getLogger("ingest.x").error("r0tated %s", signed)
        try:
            fail(ValueError(f"r0tated at {signed}"))
        except ValueError:
            log.exception("put.failed", url=signed, nested=[{"key": "k3y.first", "r0tated": 1}], text="is k3y.first!")
    text = stream.getvalue()
    assert "put.failed" in text
    assert "https://cdn.example/a.jpg?[withheld]" in text
    for secret in ("k3y", "r0tated", "deadbeef"):
        assert secret not in text


def test_local_variables_are_never_shown(plain_environment):
    stream = Terminal()
    with configure("auto", "info", stream):
        hidden = "l0cal".upper()
        try:
            fail(ValueError(len(hidden)))
        except ValueError:
            log.exception("x.broke")
    assert "L0CAL" not in stream.getvalue()
    assert "Traceback" in stream.getvalue()


def test_auto_is_colour_on_a_terminal_and_json_elsewhere(plain_environment):
    for stream, is_console in ((Terminal(), True), (io.StringIO(), False)):
        with configure(stream=stream):
            log.info("job.settled", job=17)
        assert ("\x1b[" in stream.getvalue()) is is_console
        assert stream.getvalue().startswith("{") is not is_console


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(plain_environment, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    with configure(stream=stream):
        log.info("job.settled", job=17)
    assert "\x1b" not in stream.getvalue()
    assert "job.settled" in stream.getvalue()
    assert "job=17" in stream.getvalue()


def test_a_file_name_cannot_speak_to_the_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    with configure("console", "info", stream):
        try:
            fail(ValueError("bell\x07\x9b2J"))
        except ValueError:
            log.exception("file.seen", path="\x1b]0;owned\x07.jpg", nested=["\x1b[2J"])
    assert not set(stream.getvalue()) & {"\x1b", "\x07", "\x9b", "\r"}


def test_a_stream_needs_nothing_but_write():
    lines: list[str] = []

    class Lines:
        def write(self, text):
            lines.append(text)

    with configure("auto", "info", Lines()):
        log.info("a.done")
        log.info("b.done")
    assert [json.loads(line)["event"] for line in lines] == ["a.done", "b.done"]
    assert all(line.endswith("\n") for line in lines)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_a_level_that_is_off_renders_nothing(level):
    Unshown.shown = 0
    stream = io.StringIO()
    with configure("json", "critical", stream):
        getattr(log, level)("x.seen", value=Unshown())
    assert Unshown.shown == 0
    assert stream.getvalue() == ""


def test_unconfigured_records_go_to_the_application(caplog):
    signed = "https://cdn.example/a.jpg?Signature=deadbeef"
    with caplog.at_level(logging.INFO, "ingest"):
        log.info("job.settled", job=17, url=signed)
        log.debug("job.claimed")
    (record,) = caplog.records
    assert record.name == "ingest.pipeline"
    assert record.getMessage() == "job.settled job=17 url='https://cdn.example/a.jpg?[withheld]'"
    assert (record.msg.name, record.msg.data["job"]) == ("job.settled", 17)
    assert record.funcName == "test_unconfigured_records_go_to_the_application"


def test_unconfigured_and_unasked_for_nothing_is_printed(capfd, caplog):
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("ingest").handlers)
    with caplog.at_level(logging.CRITICAL, "ingest"):
        log.error("x.failed")
    assert capfd.readouterr() == ("", "")


def test_everything_is_left_as_it_was_found():
    def state(name):
        logger = logging.getLogger(name)
        return logger.handlers[:], logger.level, logger.propagate, logger.disabled

    loggers = ("ingest", "ingest.pipeline", "", "asyncio", "aiohttp")
    before = [state(name) for name in loggers]
    threads = threading.active_count()
    inside = []
    with pytest.raises(ZeroDivisionError), configure("json", "debug", io.StringIO()):
        fail(ZeroDivisionError(inside.extend(state(name) for name in loggers)))
    assert inside[0] != before[0]
    assert inside[1:] == before[1:]
    assert [state(name) for name in loggers] == before
    assert threading.active_count() == threads


def test_a_level_that_does_not_exist_changes_nothing():
    before = logging.getLogger("ingest").handlers[:]
    threads = threading.active_count()
    with pytest.raises(ValueError, match="LOUD"), configure("json", "loud", io.StringIO()):
        pass
    assert logging.getLogger("ingest").handlers == before
    assert threading.active_count() == threads


class Held:
    """A stream that takes its first line only when `released`."""

    def __init__(self):
        self.entered = threading.Event()
        self.released = threading.Event()
        self.lines: list[str] = []

    def write(self, text):
        self.entered.set()
        self.released.wait()
        self.lines.append(text)


def test_a_full_queue_drops_counts_and_tells(monkeypatch):
    monkeypatch.setattr(observe_writer, "QUEUE_LINES", 3)
    stream = Held()
    with configure("json", "info", stream) as logs:
        log.info("line.first")
        stream.entered.wait()
        for number in range(8):  # 3 find room
            log.info("line.more", number=number)
        assert logs.dropped == 5
        stream.released.set()
    events = [json.loads(line) for line in stream.lines]
    assert [event["event"] for event in events] == ["line.first", *["line.more"] * 3, "log.dropped"]
    assert events[-1]["lines"] == 5
    assert events[-1]["level"] == "warning"


def test_a_stream_that_takes_nothing_does_not_keep_the_program(monkeypatch):
    monkeypatch.setattr(observe_logging, "DRAIN_S", 0.001)
    stream = Held()
    with configure("json", "info", stream):
        log.info("line.first")
        stream.entered.wait()
    assert stream.lines == []
    assert all(not isinstance(handler, observe_writer.Writer) for handler in logging.getLogger("ingest").handlers)
    stream.released.set()


def test_a_stream_that_fails_is_survived_and_told():
    class Flaky(io.StringIO):
        failures = 2

        def write(self, text):
            if self.failures:
                self.failures -= 1
                raise BrokenPipeError
            return super().write(text)

    stream = Flaky()
    with configure("json", "info", stream):
        for number in range(3):
            log.info("line.more", number=number)
    told = written(stream)
    assert [line["event"] for line in told] == ["line.more", "log.dropped"]
    assert told[-1]["lines"] == 2


async def test_logging_from_the_loop_does_not_wait_for_the_stream():
    stream = Held()
    with configure("json", "info", stream):
        for _ in range(100):
            log.info("line.more")
        assert stream.lines == []
        stream.released.set()
    assert len(stream.lines) == 100
