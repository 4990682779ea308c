"""Where a command's settings come from: flag > environment > file > default, and who is to blame for a wrong one.

Merges text; what the text means is the parsers' word (`values`), and what it is for, `configuration`'s. Only settings
are merged, those that `SETTINGS` names. What selects the records or pages that a command shows or changes is taken
from the command line alone: a variable that a container sets for its runs must not narrow what a person is shown.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from ingest.cli import output
from ingest.errors import UsageError
from ingest.observe.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from typer import Context

__all__ = ["SETTINGS", "Given", "Origins", "of_process", "told"]

T = TypeVar("T")
D = TypeVar("D")

PREFIX: Final = "INGEST_"
FILE_SUFFIX: Final = "_FILE"

OF_THE_API: Final = frozenset({"GENVIRAL_API_KEY", "GENVIRAL_API_KEY_FILE", "GENVIRAL_BASE_URL"})
"""What is told in the environment only, under these names."""

SETTINGS: Final = frozenset(
    # What jobs a run takes, and how it treats them.
    {"source", "include", "exclude", "pack", "create-pack", "duplicates", "limit", "max-rejected", "allow-empty"}
    | {"shard", "root", "idle", "to"}
    | {"max-bytes", "max-memory", "check-urls", "rehost", "allow-private-hosts"}
    # How fast, how often, how long.
    | {"concurrency", "rate", "max-attempts", "timeout", "drain-timeout", "settle-delay", "give-up-after", "on-fatal"}
    | {"settle-files"}
    # Where things are kept and shown.
    | {"journal", "json", "metrics-port", "metrics-host", "log-format", "log-level"}
    # The sandbox's own.
    | {"host", "port", "data", "key", "keys", "faults"}
)
"""Every setting by its option's name; also its key in a file, and `INGEST_` + the name in the environment."""

INJECTED: Final = ("tcp://", "udp://", "sctp://")
# Kubernetes sets such variables for every service of a namespace, and one may be called "ingest"
# (https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables).


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What was given for one setting, by the first origin that names it: one text, or several for a list."""

    texts: tuple[str, ...]
    origin: str  # "--rate", "INGEST_RATE", "rate in /home/me/.config/ingest/config.toml"
    is_list: bool = False  # several were meant, even if there is one


class Origins:
    """What one command was told. `warnings` are for the person who told it, a line each."""

    def __init__(
        self, flags: Mapping[str, object], environment: Mapping[str, str], *, default_file: Callable[[], Path]
    ) -> None:
        self.warnings: list[str] = []
        self._flags = {name.replace("_", "-"): value for name, value in flags.items()}
        self._environment = self._known(environment)
        self._file: Path | None = None
        self._table: Mapping[str, object] = {}
        self._file, self._table = self._read(default_file)

    def one(self, name: str, parse: Callable[[str], T], default: D) -> T | D:
        """The setting's value, `default` where nobody gave one. `UsageError` names the origin of a wrong one."""
        given = self.given(name)
        if given is None:
            return default
        if given.is_list or len(given.texts) != 1:
            raise _wrong(given, ", ".join(given.texts), "one value, not a list")
        try:
            return parse(given.texts[0])
        except ValueError as error:
            raise _wrong(given, given.texts[0], str(error)) from error

    def many(self, name: str) -> tuple[str, ...]:
        """The setting's texts; empty where nobody gave one. An origin replaces those after it, and adds nothing."""
        given = self.given(name)
        return () if given is None else given.texts

    def given(self, name: str) -> Given | None:
        """What was given for a setting, and by whom."""
        flag = self._flags.get(name)
        if flag is not None and flag not in ((), []):
            return Given(texts=_texts(flag), origin="the command line" if name == "source" else f"--{name}")
        variable = PREFIX + name.upper().replace("-", "_")
        if (found := self._from_environment(variable)) is not None:
            # In a variable a list is one to a line: paths, globs and URLs may hold any other separator.
            text, origin = found
            lines = tuple(line for line in text.splitlines() if line.strip())
            return Given(texts=lines, origin=origin) if lines else None
        if name in self._table:
            value = self._table[name]
            return Given(texts=_texts(value), origin=f"{name} in {self._file}", is_list=isinstance(value, list | dict))
        return None

    def _from_environment(self, variable: str) -> tuple[str, str] | None:
        if text := self._environment.get(variable):
            return text, variable
        if path := self._environment.get(variable + FILE_SUFFIX):
            return _content(path, variable + FILE_SUFFIX), f"{printable(path)} ({variable}{FILE_SUFFIX})"
        return None

    def _known(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """The variables that are this program's; the others are warned of."""
        names = {PREFIX + name.upper().replace("-", "_") for name in {*SETTINGS, "config"}}
        names |= {name + FILE_SUFFIX for name in names}
        known: dict[str, str] = {}
        for name, text in sorted(environment.items()):
            if not name.startswith(PREFIX):
                continue
            if text.startswith(INJECTED):
                self.warnings.append(f"{name} was ignored: {printable(text)} looks like what Kubernetes sets.")
            elif name not in names:
                self.warnings.append(f"{name} was ignored: there is no such setting.{_meant(name, names)}")
            else:
                known[name] = text
        return known

    def _read(self, default_file: Callable[[], Path]) -> tuple[Path | None, Mapping[str, object]]:
        """The settings' file and its table. One that was named must be there; the user's own need not."""
        given = self.given("config")
        path = Path(given.texts[0]) if given is not None else default_file()
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            if given is None:
                return None, {}
            raise _unreadable(path, given.origin, error.strerror) from error
        except OSError as error:
            raise _unreadable(path, given.origin if given else "the user's settings", error.strerror) from error
        except ValueError as error:  # no TOML, or no UTF-8
            raise _unreadable(path, given.origin if given else "the user's settings", str(error)) from error
        known: dict[str, object] = {}
        for key, value in table.items():
            name = key.replace("_", "-")
            if name in SETTINGS:
                known[name] = value
            else:
                self.warnings.append(
                    f"{printable(key)} in {path} was ignored: no such setting.{_meant(name, SETTINGS)}"
                )
        return path, known


def _texts(value: object) -> tuple[str, ...]:
    """A flag's or a file's value as the texts that a person would have typed."""
    if isinstance(value, list | tuple):
        return tuple(text for member in value for text in _texts(member))
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return (str(value),)


def _content(path: str, variable: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8", "surrogateescape").strip("\r\n")
    except OSError as error:
        raise _unreadable(Path(path), variable, error.strerror) from error


def _unreadable(path: Path, origin: str, problem: str | None) -> UsageError:
    return UsageError(
        f"The file {printable(os.fspath(path))} ({origin}) can't be used: {problem}.",
        code="bad_settings_file",
        hint=f"Mend the file, or correct {origin}.",
    )


def _wrong(given: Given, text: str, expected: str) -> UsageError:
    return UsageError(
        f"{given.origin}: {printable(text)!r} can't be used; expected is {expected}.",
        code="bad_value",
        hint="The command's --help says what it takes.",
    )


def _meant(name: str, known: frozenset[str] | set[str]) -> str:
    elsewhere = "GENVIRAL_" + name.removeprefix("INGEST_").upper().replace("-", "_")
    if elsewhere in OF_THE_API:
        return f" Was {elsewhere} in the environment meant?"
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" Was {close[0]} meant?" if close else ""


def of_process(flags: Mapping[str, object]) -> Origins:
    """The origins of this process: its environment, and `config.toml` in the user's configuration directory."""
    return Origins(flags, os.environ, default_file=_user_file)


def told(ctx: Context) -> Origins:
    """What the command in hand was told; the warnings go to stderr."""
    origins = of_process(ctx.params)
    for warning in origins.warnings:
        output.message(warning)
    return origins


def _user_file() -> Path:
    import platformdirs  # noqa: PLC0415 - not for --help and --version

    return platformdirs.user_config_path("ingest", appauthor=False) / "config.toml"
