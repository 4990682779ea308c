"""A key is checked before it is used, is read again after a rotation, and is never shown."""

from pathlib import Path

import pytest
from rude import KEY, SECRET

from ingest.api.credentials import Credentials
from ingest.errors import UsageError
from ingest.settings import ApiSettings


def test_the_key_becomes_a_header() -> None:
    credentials = Credentials(ApiSettings(key=KEY))
    assert credentials.authorization == f"Bearer {KEY}"
    assert credentials.public_id == "pk_public"


def test_the_secret_is_not_shown() -> None:
    credentials = Credentials(ApiSettings(key=KEY))
    assert SECRET not in f"{credentials} {credentials!r}"


@pytest.mark.parametrize(
    "key",
    ["nodot", ".s3cr3t", "public.", "pub lic.s3cr3t", "public.s3\tcr3t", "public.s3cr3t\n", "public.s3crét", "a.b\x7f"],
)
def test_what_can_not_be_a_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(UsageError, match=r"public_id\.secret") as caught:
        Credentials(ApiSettings(key=key))
    assert "GENVIRAL_API_KEY" in caught.value.hint
    assert key not in str(caught.value)


def test_no_key_is_an_error_of_its_own() -> None:
    with pytest.raises(UsageError, match="holds no API key") as caught:
        Credentials(ApiSettings())
    assert caught.value.code == "no_key"


def test_a_file_may_end_its_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\r\n")
    assert Credentials(ApiSettings(key_file=str(file))).authorization == f"Bearer {KEY}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no-such-file"):
        Credentials(ApiSettings(key_file=str(tmp_path / "no-such-file")))


def test_a_file_of_something_else_is_named_and_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"\xff\xfenonsense")
    with pytest.raises(UsageError, match=str(file)) as caught:
        Credentials(ApiSettings(key_file=str(file)))
    assert "nonsense" not in str(caught.value)


async def test_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    credentials = Credentials(ApiSettings(key_file=str(file)))
    assert not await credentials.refresh()
    file.write_text("pk_second.other")
    assert await credentials.refresh()
    assert credentials.authorization == "Bearer pk_second.other"
    assert credentials.public_id == "pk_second"


async def test_every_secret_is_told_before_it_is_used(tmp_path: Path) -> None:
    told: list[str] = []
    file = tmp_path / "key"
    file.write_text(KEY)
    credentials = Credentials(ApiSettings(key_file=str(file)), on_secret=told.append)
    assert told == [KEY, SECRET]
    file.write_text("pk_second.other")
    await credentials.refresh()
    assert told == [KEY, SECRET, "pk_second.other", "other"]


@pytest.mark.parametrize("content", [None, "", "half-a-key"])
async def test_in_the_midst_of_a_rotation_the_key_stays(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    credentials = Credentials(ApiSettings(key_file=str(file)))
    file.unlink() if content is None else file.write_text(content)
    assert not await credentials.refresh()
    assert credentials.authorization == f"Bearer {KEY}"


async def test_a_key_of_the_settings_does_not_change(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("pk_second.other")
    credentials = Credentials(ApiSettings(key=KEY, key_file=str(file)))
    assert not await credentials.refresh()
    assert credentials.public_id == "pk_public"
