"""Which files a message may name: only those under one directory, after resolving links and `..`.

Others write to a queue: whoever may publish must not have any file of this machine sent. Opens nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ingest.errors import UsageError
from ingest.observe.text import printable

__all__ = ["OutsideRoot", "Root"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideRoot:
    """A path that may not be read: `reason` for programs, `detail` for people."""

    reason: str
    detail: str


class Root:
    """The directory that `--root` names, or none.

    `UsageError` where it is no directory. Both methods look at the file system, and block.
    """

    def __init__(self, directory: str | None) -> None:
        self._root: str | None = None
        if directory is not None:
            if not Path(directory).is_dir():
                raise UsageError(
                    f"--root {printable(directory)} is not a directory.",
                    code="no_such_root",
                    hint="Name the directory that holds the images which messages name.",
                )
            self._root = str(Path(directory).resolve())

    def resolve(self, path: str) -> str | OutsideRoot:
        """The file that `path` names, with no link and no `..` left in it; a relative one is taken from the root.

        Nothing needs to be there. What is put in the place of a directory later is followed like anything else: whoever
        writes below the root may have its files read.
        """
        if self._root is None:
            return OutsideRoot(
                reason="path_without_root",
                detail="The message names a path, and no --root DIR says which may be read.",
            )
        try:
            # Not `Path.resolve`, which has its own ways with a loop of links from version to version.
            resolved = os.path.realpath(os.path.join(self._root, path))  # noqa: PTH118
        except (OSError, ValueError) as error:  # a NUL
            return OutsideRoot(reason="path_outside_root", detail=f"The path can't be resolved: {error}.")
        if resolved != self._root and not resolved.startswith(self._root.rstrip("/") + "/"):
            return OutsideRoot(reason="path_outside_root", detail="The path leads out of the directory of --root.")
        return resolved

    def relative(self, path: str) -> str | OutsideRoot:
        """`path` as a message names it: relative to the root, or absolute where there is none."""
        if self._root is None:
            return os.path.abspath(path)  # noqa: PTH100 - text only
        resolved = self.resolve(path)
        return resolved if isinstance(resolved, OutsideRoot) else os.path.relpath(resolved, self._root)
