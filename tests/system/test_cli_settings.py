"""Where settings come from: flag > environment > file > default, and what is said of wrong and unknown ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ingest.cli import values
from ingest.cli.origins import SETTINGS, Origins
from ingest.cli.run import run
from ingest.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import CommandLine, Served


@pytest.fixture
def told(tmp_path: Path) -> Callable[..., Origins]:
    """Makes the origins of a command from flags, variables and the text of the user's file."""

    def make(flags: dict[str, object] | None = None, file: str | None = None, **environment: str) -> Origins:
        path = tmp_path / "config.toml"
        if file is not None:
            path.write_text(file)
        return Origins(flags or {}, environment, default_file=lambda: path)

    return make


number = values.whole_number(minimum=1)


def test_flag_over_environment_over_file_over_default(told: Callable[..., Origins]) -> None:
    file = "max-attempts = 3"
    assert told({"max_attempts": "1"}, file, INGEST_MAX_ATTEMPTS="2").one("max-attempts", number, 4) == 1
    assert told({"max_attempts": None}, file, INGEST_MAX_ATTEMPTS="2").one("max-attempts", number, 4) == 2
    assert told({"max_attempts": None}, file).one("max-attempts", number, 4) == 3
    assert told({"max_attempts": None}, "").one("max-attempts", number, 4) == 4
    assert told(None, file, INGEST_MAX_ATTEMPTS="").one("max-attempts", number, 4) == 3


def test_a_flag_takes_back_what_a_file_says(told: Callable[..., Origins]) -> None:
    assert told({"create_pack": False}, "create-pack = true").one("create-pack", values.truth, True) is False
    assert told({"create_pack": None}, "create_pack = true").one("create-pack", values.truth, False) is True


def test_a_variable_may_name_a_file(told: Callable[..., Origins], tmp_path: Path) -> None:
    (tmp_path / "rate").write_text("7\n")
    rate = values.number(minimum=0)
    assert told(INGEST_RATE_FILE=str(tmp_path / "rate")).one("rate", rate, None) == 7.0
    assert told(INGEST_RATE_FILE=str(tmp_path / "rate"), INGEST_RATE="8").one("rate", rate, None) == 8.0
    with pytest.raises(UsageError, match="INGEST_RATE_FILE"):
        told(INGEST_RATE_FILE=str(tmp_path / "none")).one("rate", rate, None)


def test_lists_are_lines_in_a_variable_and_lists_in_a_file(told: Callable[..., Origins]) -> None:
    assert told(INGEST_SOURCE="/a:b\n/c d\n").many("source") == ("/a:b", "/c d")
    assert told(None, 'include = ["*.jpg", "*.png"]').many("include") == ("*.jpg", "*.png")
    assert told(None, 'include = "*.jpg"').many("include") == ("*.jpg",)
    assert told({"include": ["a"]}, 'include = ["b"]', INGEST_INCLUDE="c").many("include") == ("a",)
    assert told({"include": ()}, 'include = ["b"]').many("include") == ("b",)


def test_a_wrong_value_names_its_origin(told: Callable[..., Origins]) -> None:
    for origins, origin in (
        (told({"concurrency": "x"}), "--concurrency: 'x'"),
        (told(INGEST_CONCURRENCY="x"), "INGEST_CONCURRENCY: 'x'"),
        (told(None, 'concurrency = "x"'), "concurrency in .*config.toml: 'x'"),
        (told(None, "concurrency = [1, 2]"), "concurrency in .*one value"),
        (told(None, "concurrency = [1]"), "concurrency in .*one value"),
    ):
        with pytest.raises(UsageError, match=origin):
            origins.one("concurrency", number, None)


def test_unknown_and_injected_variables_are_warned_of(told: Callable[..., Origins]) -> None:
    origins = told(
        None,
        "conurrency = 3",
        INGEST_CONCURENCY="1",
        INGEST_PORT="tcp://10.0.0.1:80",
        INGEST_PORT_80_TCP_ADDR="10.0.0.1",
        INGEST_RATE="1",
        INGEST_API_KEY="a.b",
        OTHER="x",
    )
    warned = "\n".join(origins.warnings)
    assert "INGEST_CONCURENCY was ignored: there is no such setting. Was INGEST_CONCURRENCY meant?" in warned
    assert "INGEST_PORT was ignored" in warned
    assert "Kubernetes" in warned
    assert "INGEST_PORT_80_TCP_ADDR was ignored" in warned
    assert "conurrency in" in warned
    assert "Was GENVIRAL_API_KEY in the environment meant?" in warned
    assert len(origins.warnings) == 5
    assert origins.one("port", number, None) is None


def test_every_option_of_run_is_a_setting() -> None:
    options = {name.replace("_", "-") for name in run.__annotations__ if name not in {"ctx", "return", "config"}}
    assert options <= SETTINGS


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("20MB", 20_000_000), ("50MiB", 52_428_800), ("1.5 gib", 1_610_612_736), ("3k", 3000)]
)
def test_sizes(text: str, size: int) -> None:
    assert values.size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "MB", "20 elephants", "1e3", "9" * 400])
def test_texts_that_are_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="a size"):
        values.size_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5", 0.5), ("250ms", 0.25), ("1d", 86400)],
)
def test_durations(text: str, seconds: float) -> None:
    assert values.duration_s(text) == seconds


def test_never() -> None:
    assert values.duration_or_never("Never") is None
    assert values.duration_or_never("1m") == 60
    for text in ("0", "soon", "-1", "nan", "inf"):
        with pytest.raises(ValueError, match="never"):
            values.duration_or_never(text)


def test_a_whole_run_from_the_environment(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = pictures(2, "first"), pictures(2, "second")
    (tmp_path / "pack").write_text("Holiday\n")
    done = ingest(
        "run",
        env={
            "INGEST_SOURCE": f"{first}\n{second}\n",
            "INGEST_PACK_FILE": str(tmp_path / "pack"),
            "INGEST_CREATE_PACK": "yes",
            "INGEST_JSON": "1",
            "INGEST_JOURNAL": str(tmp_path / "journal.db"),
        },
    )
    assert done.code == 0, done
    assert done.json["added"] == 4
    assert (tmp_path / "journal.db").exists()
    assert len(sandbox.urls("Holiday")) == 4


def test_the_users_file_counts_and_the_current_directorys_does_not(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path]
) -> None:
    (ingest.home / "config" / "ingest").mkdir(parents=True)
    (ingest.home / "config" / "ingest" / "config.toml").write_text('pack = "Mine"\ncreate-pack = true\n')
    (ingest.home / "config.toml").write_text('pack = "Stranger"\n')

    assert ingest("run", pictures(1)).code == 0

    assert [pack["name"] for pack in sandbox.ledger()["packs"]] == ["Mine"]


def test_a_named_file_and_a_json_error_that_it_asks_for(ingest: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('json = true\nconcurrency = "many"\n')

    done = ingest("run", ".", "--pack", "P", "--config", tmp_path / "mine.toml")

    assert done.code == 2, done
    assert done.json["error"]["code"] == "bad_value"
    assert "concurrency in " in done.err


def test_warnings_come_on_stderr_and_change_nothing(ingest: CommandLine, pictures: Callable[..., Path]) -> None:
    env = {"INGEST_PAKC": "x", "INGEST_PORT": "tcp://10.0.0.1:80"}

    done = ingest("run", pictures(1), "--pack", "P", "--create-pack", "--json", env=env)

    assert done.code == 0, done
    assert "INGEST_PAKC was ignored" in done.err
    assert "INGEST_PORT was ignored" in done.err
    assert done.json["added"] == 1


def test_the_key_from_a_file(
    ingest: CommandLine, sandbox: Served, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "key").write_text(f"{sandbox.key}\n")
    env = {"GENVIRAL_API_KEY": "", "GENVIRAL_API_KEY_FILE": str(tmp_path / "key")}

    assert ingest("run", pictures(1), "--pack", "P", "--create-pack", env=env).code == 0

    missing = {"GENVIRAL_API_KEY": "", "GENVIRAL_API_KEY_FILE": str(tmp_path / "none")}
    done = ingest("packs", "list", env=missing)
    assert done.code == 2, done
    assert str(tmp_path / "none") in done.err
