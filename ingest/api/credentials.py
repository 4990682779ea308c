"""The API key: where it comes from, what may be shown of it, and reading it again after a 401.

Makes no request. The secret leaves this module in one place only, the value of the `Authorization` header.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ingest.settings import ApiSettings

__all__ = ["Credentials"]


class Credentials:
    """An API key, `public_id.secret`, from the settings or from a file that may be rotated.

    `authorization` is the value of the request header, `public_id` the part that may be shown and stored. A key in the
    settings goes before a key file. `on_secret` is told what must not be shown, before a key is used. Raises
    `UsageError` without a key, or with one that can't be a key.
    """

    def __init__(self, settings: ApiSettings, *, on_secret: Callable[[str], None] | None = None) -> None:
        self._on_secret = on_secret
        self._file = Path(settings.key_file) if settings.key_file and not settings.key else None
        if self._file is not None:
            self._accept(_read(self._file), f"the file {self._file}, which GENVIRAL_API_KEY_FILE names,")
        else:
            self._accept(settings.key, "GENVIRAL_API_KEY")

    def __repr__(self) -> str:
        return f"<Credentials {self.public_id}>"

    async def refresh(self) -> bool:
        """Read the key file again; whether the key has changed.

        False without a file, and while the file is missing or holds no key, as it may in the midst of a rotation: the
        key in use stays.
        """
        if self._file is None:
            return False
        before = self.authorization
        try:
            self._accept(await asyncio.to_thread(_read, self._file), f"the file {self._file}")
        except UsageError:
            return False
        return self.authorization != before

    def _accept(self, key: str, origin: str) -> None:
        public_id, _, secret = key.partition(".")
        if not key:
            raise _bad_key(f"{origin[0].upper()}{origin[1:]} holds no API key.", code="no_key")
        if not (public_id and secret and key.isascii() and key.isprintable() and " " not in key):
            raise _bad_key(f"What {origin} holds is no API key; one looks like public_id.secret.", code="bad_key")
        if self._on_secret is not None:
            self._on_secret(key)
            self._on_secret(secret)
        self.public_id = public_id
        self.authorization = f"Bearer {key}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise _bad_key(f"The API key file {path} can't be read: {error.strerror}.", code="no_key") from error


def _bad_key(message: str, *, code: str) -> UsageError:
    return UsageError(
        message,
        code=code,
        hint="Set GENVIRAL_API_KEY to a Partner API key (public_id.secret), or GENVIRAL_API_KEY_FILE to a file of one.",
    )
