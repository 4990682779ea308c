"""API keys: what each one may see, and whether its plan may use the API at all.

Nothing here knows about HTTP, and nothing here ever shows the part of a key after its dot.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated, Final, Literal, TypeAlias

import msgspec

from ingest.sandbox.tomlfile import SandboxFileError, read_toml

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["ApiKey", "KeyChange", "KeyKind", "Keyring", "Tier", "load_keys"]

KeyKind: TypeAlias = Literal["workspace", "personal"]
Tier: TypeAlias = Literal["creator", "professional", "business", "scheduler", "none"]

# Fixed, so that a sandbox that is started again with a fresh key still shows the packs under its `--data`.
DEFAULT_WORKSPACE: Final = "00000000-0000-4000-8000-000000000001"
DEFAULT_OWNER: Final = "00000000-0000-4000-8000-000000000002"

KEYS_HINT: Final = (
    'Expected: [[key]] tables with key = "public_id.secret" and, as needed, kind = "workspace" | "personal", '
    'workspace_id, owner_id, tier = "creator" | "professional" | "business" | "scheduler" | "none", revoked = true.'
)

# A segment of CDN paths, so nothing that a path could not hold.
PathSegment: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key, and the scope and plan behind it; `workspace_id` counts for a workspace key, `owner_id` for both."""

    key: str
    kind: KeyKind = "workspace"
    workspace_id: PathSegment = DEFAULT_WORKSPACE
    owner_id: PathSegment = DEFAULT_OWNER
    tier: Tier = "creator"
    revoked: bool = False

    def __post_init__(self) -> None:
        public_id, dot, secret = self.key.partition(".")
        if not (public_id and dot and secret) or self.key.split() != [self.key]:
            raise ValueError("an API key such as public_id.secret")

    def __repr__(self) -> str:
        return f"ApiKey({self.public_id}.…, scope={self.scope!r}, tier={self.tier!r}, revoked={self.revoked})"

    @classmethod
    def generate(
        cls,
        *,
        scope: KeyKind = "workspace",
        workspace_id: str = DEFAULT_WORKSPACE,
        owner_id: str = DEFAULT_OWNER,
        tier: Tier = "creator",
    ) -> ApiKey:
        """A fresh random key."""
        key = f"sandbox{secrets.token_hex(6)}.{secrets.token_urlsafe(24)}"
        return cls(key=key, kind=scope, workspace_id=workspace_id, owner_id=owner_id, tier=tier)

    @property
    def public_id(self) -> str:
        """The part before the dot: the only one that may be shown or stored."""
        return self.key.partition(".")[0]

    @property
    def scope(self) -> str:
        """What the key sees and changes, in the words of the CDN's paths: `workspaces/{id}` or `users/{id}`."""
        return f"workspaces/{self.workspace_id}" if self.kind == "workspace" else f"users/{self.owner_id}"


class KeyChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a test may do to one key while the sandbox runs; unset fields stay as they are."""

    key: str
    kind: KeyKind | msgspec.UnsetType = msgspec.UNSET
    workspace_id: PathSegment | msgspec.UnsetType = msgspec.UNSET
    owner_id: PathSegment | msgspec.UnsetType = msgspec.UNSET
    tier: Tier | msgspec.UnsetType = msgspec.UNSET
    revoked: bool | msgspec.UnsetType = msgspec.UNSET


class Keyring:
    """The keys that the running sandbox knows. Changes live as long as the process, and are not persisted."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = {key.key: key for key in keys}

    def find(self, key: str) -> ApiKey | None:
        """The key as it stands, revoked ones too; None when nobody made it."""
        return self._keys.get(key)

    def change(self, change: KeyChange) -> ApiKey:
        """Revoke, restore, move or add a key; ValueError when it does not look like one."""
        known = self._keys.get(change.key)
        fields = msgspec.structs.asdict(known) if known is not None else {}
        wanted = {name: value for name, value in msgspec.structs.asdict(change).items() if value is not msgspec.UNSET}
        changed = ApiKey(**{**fields, **wanted})
        self._keys[changed.key] = changed
        return changed


class _KeysFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Annotated[tuple[ApiKey, ...], msgspec.Meta(min_length=1)]


def load_keys(path: Path) -> tuple[ApiKey, ...]:
    """The `[[key]]` tables of a TOML file; SandboxFileError says what is wrong with it."""
    keys = read_toml(path, _KeysFile, hint=KEYS_HINT).key
    seen: set[str] = set()
    for number, key in enumerate(keys):
        if key.key in seen:
            raise SandboxFileError(f"{path}: key[{number}] ({key.public_id}.…) is there twice; each key stands once")
        seen.add(key.key)
    return keys
