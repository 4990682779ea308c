"""A directory's names come sorted by their bytes, however many there are, and errors are told."""

from __future__ import annotations

import os
import tempfile
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import MachineError
from ingest.sources import listing
from ingest.sources.listing import EntryKind, sorted_entries


def entries(directory, *, names_in_memory=100, stop=None, failed=None):
    def raise_it(path: bytes, error: OSError) -> None:
        raise error

    return sorted_entries(
        os.fsencode(directory),
        failed=failed or raise_it,
        stop=stop or threading.Event(),
        names_in_memory=names_in_memory,
    )


NAMES = st.sets(
    st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name and name[0] != 46)
    | st.sampled_from([b"a", b"a ", b"a-", b"a.jpg", b"a\n", b"\x01", b"\xff", b"A"]),
    max_size=30,
)


@given(NAMES, st.integers(1, 40))
def test_spilled_runs_merge_to_the_plain_order(names, names_in_memory):
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            with open(os.path.join(os.fsencode(directory), name), "wb"):
                pass
        found = [name for name, _ in entries(directory, names_in_memory=names_in_memory)]
    assert found == sorted(names)


def test_runs_longer_than_one_block_are_read_back_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "_BLOCK_BYTES", 7)
    names = [f"photo {number:04}.jpg" for number in range(300)]
    for name in names:
        (tmp_path / name).touch()
    assert [name.decode() for name, _ in entries(tmp_path, names_in_memory=64)] == names


def test_kinds(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".hidden").touch()
    assert dict(entries(tmp_path)) == {
        b"file": EntryKind.FILE,
        b"directory": EntryKind.DIRECTORY,
        b"link": EntryKind.LINK,
        b"broken": EntryKind.LINK,
        b"pipe": EntryKind.OTHER,
    }


def test_a_directory_that_can_not_be_read_is_told(tmp_path):
    told = []
    assert list(entries(tmp_path / "none", failed=lambda path, error: told.append((path, type(error))))) == []
    assert told == [(os.fsencode(tmp_path / "none"), FileNotFoundError)]


def test_an_entry_that_can_not_be_read_is_told_and_the_rest_goes_on(tmp_path, monkeypatch):
    kind = listing._kind

    def fail_for_b(entry):
        if entry.name == b"b":
            raise OSError(5, "Input/output error")
        return kind(entry)

    monkeypatch.setattr(listing, "_kind", fail_for_b)
    for name in "abc":
        (tmp_path / name).touch()
    told = []
    assert [name for name, _ in entries(tmp_path, failed=lambda path, _: told.append(path))] == [b"a", b"c"]
    assert told == [os.fsencode(tmp_path / "b")]


def test_stopped_it_ends(tmp_path):
    (tmp_path / "a").touch()
    stop = threading.Event()
    stop.set()
    assert list(entries(tmp_path, stop=stop)) == []


def test_no_room_for_the_temporary_file_ends_the_run(tmp_path, monkeypatch):
    for name in "abc":
        (tmp_path / name).touch()

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def tell(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(MachineError, match="No space left") as caught:
        list(entries(tmp_path, names_in_memory=2))
    assert "TMPDIR" in caught.value.hint
