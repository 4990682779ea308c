"""Random trees of images, and how they change: equal files, links, odd names, and much that is no image.

Knows what a run must make of every file. Talks to nobody.
"""

from __future__ import annotations

import enum
import hashlib
import os
import time
from typing import TYPE_CHECKING, Final

from tests.soak.pictures import ENDINGS, NEVER_ENTERED, ODD_DIRECTORIES, ODD_STEMS, picture, refused

if TYPE_CHECKING:
    import random
    from pathlib import Path

__all__ = ["Fate", "Tree"]

MOST_AT_ONCE: Final = 12
"""Changes of a tree in one go."""

LEAST_FILES: Final = 3
"""No image at all is another story: exit 2."""


class Fate(enum.Enum):
    """What a run must make of a file."""

    TAKEN = "taken"  # its content is in the pack
    REFUSED = "refused"  # it is discovered, and `rejected`
    IGNORED = "ignored"  # it is not discovered


class Tree:
    """A directory of images for one pack, and everything that was ever in it."""

    def __init__(self, root: Path, pack: str, dice: random.Random, count: int) -> None:
        self.root = root
        self.pack = pack
        self._dice = dice
        self._fates: dict[bytes, Fate] = {}
        self._made = 0
        self.ever: set[str] = set()  # what may be in the pack, once
        root.mkdir()
        for _ in range(count):
            self._make()
        if dice.random() < 0.2:
            # More than is read whole: noise is as large as PNG gets, and 4 MiB are streamed.
            self._write(self._fresh(b".png"), picture(dice, "PNG", 1250), Fate.TAKEN)

    def wanted(self) -> set[str]:
        """The SHA-256 of every content that the pack must hold as the tree stands."""
        return {digest for path in self._standing(Fate.TAKEN) if (digest := _digest(path))}

    def count(self, fate: Fate) -> int:
        """How many files of that fate are there."""
        return len(self._standing(fate))

    def borrow(self, other: Tree) -> None:
        """Copy some images of another tree."""
        for path in self._dice.sample(taken := other.files(), min(3, len(taken))):
            self._write(self._fresh(b".jpg"), _content(path), Fate.TAKEN)

    def files(self) -> list[bytes]:
        """The images that are no links."""
        return [path for path in self._standing(Fate.TAKEN) if not os.path.islink(path)]

    def change(self) -> None:
        """Some files come, go, grow and are replaced, some of them slowly."""
        for _ in range(self._dice.randint(1, MOST_AT_ONCE)):
            self._dice.choice((self._make, self._make, self._delete, self._replace, self._replace, self._grow))()
            # More than a tick of the clock that stamps files, so that no two changes look alike.
            time.sleep(self._dice.uniform(0.01, 0.05))

    def _make(self) -> None:
        dice = self._dice
        kind = dice.choices(("JPEG", "PNG", "GIF", "WEBP", "HEIF"), (5, 4, 3, 4, 1))[0]
        ending = b"." + ENDINGS[kind].encode()
        match dice.choices(("image", "copy", "bare", "misnamed", "link", "none", "other"), (70, 8, 4, 4, 3, 6, 8))[0]:
            case "image":
                content = picture(dice, kind, dice.choice((8, 16, 16, 32, 120)))
                self._write(self._fresh(ending), content, Fate.TAKEN)
            case "copy" if taken := self.files():
                content = _content(dice.choice(taken))
                self._write(self._fresh(ending), content, Fate.TAKEN)
            case "bare":
                self._write(self._fresh(b""), picture(dice, kind), Fate.TAKEN)
            case "misnamed":
                self._write(self._fresh(dice.choice((b".JPG", b".jpeg", b".tiff"))), picture(dice, kind), Fate.TAKEN)
            case "link" if taken := self.files():
                path = self._fresh(ending)
                os.symlink(dice.choice(taken), path)
                self._fates[path] = Fate.TAKEN
            case "none":
                self._write(self._fresh(ending), refused(dice, kind), Fate.REFUSED)
            case _:
                self._ignored(kind, ending)

    def _ignored(self, kind: str, ending: bytes) -> None:
        """A picture that nobody may see, or no picture by name and content."""
        content = picture(self._dice, kind)
        match self._dice.randrange(4):
            case 0:
                self._write(
                    self._fresh(self._dice.choice((b".tmp", b".part", b".txt", b".mov"))), content, Fate.IGNORED
                )
            case 1:
                self._write(self._fresh(b""), b"no image", Fate.IGNORED)
            case 2:
                path = self._fresh(ending)
                hidden = os.path.join(os.path.dirname(path), b"." + os.path.basename(path)[:240])
                self._write(hidden, content, Fate.IGNORED)
            case _:
                below = os.path.join(os.fsencode(self.root), self._dice.choice(NEVER_ENTERED))
                self._write(os.path.join(below, b"%d%s" % (self._made, ending)), content, Fate.IGNORED)
                self._made += 1

    def _delete(self) -> None:
        if len(self.files()) > LEAST_FILES:
            path = self._dice.choice(list(self._fates))
            os.unlink(path)
            del self._fates[path]

    def _replace(self) -> None:
        """Other bytes under a known name: in one step as most programs do, or in place and slowly."""
        seen = [path for path, fate in self._fates.items() if fate is not Fate.IGNORED and not os.path.islink(path)]
        if not seen:
            return
        path = self._dice.choice(seen)
        # Without an ending, what is no image is not even discovered.
        if self._dice.random() < 0.2 and os.path.splitext(path)[1]:
            content, fate = refused(self._dice, "PNG"), Fate.REFUSED
        else:
            content, fate = picture(self._dice, self._dice.choice(("JPEG", "PNG"))), Fate.TAKEN
        if self._dice.random() < 0.5:
            beside = os.path.join(os.path.dirname(path), b".coming")
            self._write(beside, content, Fate.IGNORED)
            del self._fates[beside]
            self._remember(path, content, fate)
            os.replace(beside, path)
            return
        self._remember(path, content, fate)
        with open(path, "wb", buffering=0) as file:
            file.write(content[: len(content) // 3])
            time.sleep(self._dice.uniform(0, 0.2))
            file.write(content[len(content) // 3 :])

    def _grow(self) -> None:
        """What follows a whole image makes it another one."""
        if not (taken := self.files()):
            return
        path = self._dice.choice(taken)
        tail = b"\n-- a trailer --%d" % self._made
        self._made += 1
        self._remember(path, _content(path) + tail, Fate.TAKEN)
        with open(path, "ab", buffering=0) as file:
            file.write(tail)

    def _fresh(self, ending: bytes) -> bytes:
        """A path that is not there yet, below a directory that is."""
        dice = self._dice
        stem = dice.choice(ODD_STEMS) if dice.random() < 0.25 else b"picture"
        below = dice.choice(ODD_DIRECTORIES) if dice.random() < 0.6 else b""
        self._made += 1
        directory = os.path.join(os.fsencode(self.root), below)
        os.makedirs(directory, exist_ok=True)
        return os.path.join(directory, b"%s %d%s" % (stem, self._made, ending))

    def _write(self, path: bytes, content: bytes, fate: Fate) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._remember(path, content, fate)
        with open(path, "wb", buffering=0) as file:
            file.write(content)

    def _remember(self, path: bytes, content: bytes, fate: Fate) -> None:
        """Before it is written: a run may be faster than this."""
        self._fates[path] = fate
        if fate is Fate.TAKEN:
            self.ever.add(hashlib.sha256(content).hexdigest())

    def _standing(self, fate: Fate) -> list[bytes]:
        """The paths of that fate; a link has that of the file it stands for."""
        return [path for path in self._fates if os.path.exists(path) and self._fate(path) is fate]

    def _fate(self, path: bytes) -> Fate:
        return self._fates[os.readlink(path) if os.path.islink(path) else path]


def _content(path: bytes) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _digest(path: bytes) -> str | None:
    """The SHA-256 of a file; None for a link to what is there no more."""
    try:
        return hashlib.sha256(_content(path)).hexdigest()
    except FileNotFoundError:
        return None
