"""Manifests: what their rows name, and what becomes of rows, files and whole manifests that are amiss."""

from __future__ import annotations

import csv
import io
import json
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.errors import MachineError, UsageError
from ingest.model import FileStamp, Job
from ingest.observe import logging
from ingest.sources import manifest, rows
from ingest.sources.base import NoJob
from ingest.sources.manifest import ManifestSource, StdinSource
from ingest.sources.rows import Format
from ingest.sources.wire import Misread

if TYPE_CHECKING:
    from pathlib import Path

    from ingest.sources.base import Delivery, Source


async def drained(source: Source) -> list[Delivery]:
    async with source.open() as batches:
        return [delivery async for batch in batches for delivery in batch]


async def of(path: Path, content: bytes | str) -> dict[int, str]:
    """Each row's line with the name of its image below the manifest's directory, or the reason of its refusal."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    source = ManifestSource(str(path))
    found = {}
    for delivery in await drained(source):
        job = delivery.job
        assert isinstance(job, Job | NoJob)
        assert delivery.place is not None
        told = job.reason if isinstance(job, NoJob) else job.image.removeprefix(f"{path.parent}/")
        found[int(delivery.place)] = told
    assert source.report.unreadable == []
    return found


class TestText:
    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ("a.jpg\nb c.jpg\n", {1: "a.jpg", 2: "b c.jpg"}),
            ("\ufeffa.jpg\r\n\r\n  \r\nb.jpg", {1: "a.jpg", 4: "b.jpg"}),
            ("  a.jpg \t\n", {1: "a.jpg"}),
            ("# said\n#\n#\tso\n#1.jpg\n./# x.jpg\n", {4: "#1.jpg", 5: "# x.jpg"}),
            ("https://h/a.jpg?b=c\n", {1: "https://h/a.jpg?b=c"}),
            (b"\xff.jpg\na.jpg\nn\0.jpg\n", {1: "bad_row", 2: "a.jpg", 3: "bad_image"}),
            ("a" * 9000 + "\na.jpg\n", {1: "bad_image", 2: "a.jpg"}),
            ("b" * 70_000 + "\nb.jpg\n", {1: "bad_row", 2: "b.jpg"}),
            ("sub/../a.jpg\nsub/a.jpg\n", {1: "a.jpg", 2: "sub/a.jpg"}),
        ],
    )  # fmt: skip
    async def test_rows(self, tmp_path, content, found):
        assert await of(tmp_path / "list.txt", content) == found

    async def test_an_ending_in_capitals_and_none_at_all(self, tmp_path):
        assert await of(tmp_path / "LIST.TXT", "a.jpg") == {1: "a.jpg"}
        assert await of(tmp_path / "list", "a.jpg") == {1: "a.jpg"}


class TestJson:
    @pytest.mark.parametrize("name", ["list.jsonl", "list.ndjson", "list.JSONL"])
    async def test_rows(self, tmp_path, name):
        content = '\ufeff{"image":"a.jpg"}\r\n\n{"image":7}\n  {"image":"b.jpg","x":1}'
        assert await of(tmp_path / name, content) == {1: "a.jpg", 3: "bad_image", 4: "b.jpg"}

    async def test_all_that_a_row_says(self, tmp_path):
        path = tmp_path / "list.jsonl"
        path.write_text('{"image": "/a/b.jpg", "pack": "P", "file_name": "n", "id": "7"}')
        (delivery,) = await drained(ManifestSource(str(path)))
        assert delivery.job == Job(image="/a/b.jpg", pack="P", file_name="n", id="7")
        assert delivery.place == "1"


class TestCsv:
    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ("image\na.jpg\n", {2: "a.jpg"}),
            ("Title,IMAGE\nx,a.jpg\n", {2: "a.jpg"}),
            ("\ufeffimage,title\r\na.jpg,x\r\n", {2: "a.jpg"}),
            ("image;title\na,1.jpg;x\n", {2: "a,1.jpg"}),
            ("title\timage\nx\ta.jpg\n", {2: "a.jpg"}),
            ("title|image\nx|a.jpg\n", {2: "a.jpg"}),
            ('"title","image"\n"x, ""y""","a.jpg"\n', {2: "a.jpg"}),
            ("'title','image'\n'x, y','a.jpg'\n", {2: "a.jpg"}),
            ('image, title\na.jpg, "x, y"\n', {2: "a.jpg"}),
            ("sep=;\r\nimage;title\r\na.jpg;x\r\n", {3: "a.jpg"}),
            ("image\ra.jpg\rb.jpg", {2: "a.jpg", 3: "b.jpg"}),
            ("image,title\na.jpg\n", {2: "a.jpg"}),
            ("image,title\n a.jpg ,x,,\n", {2: "a.jpg"}),
            ("\n\nimage\n\na.jpg\n", {5: "a.jpg"}),
            ("image,title\n,\n\n,,\na.jpg,\n", {5: "a.jpg"}),
            ('title,image\n"two\nlines",a.jpg\nx,b.jpg\n', {2: "a.jpg", 4: "b.jpg"}),
            ('title,image\n5" disk,a.jpg\n', {2: "a.jpg"}),
            ("image,title\n,x\na.jpg,y\n", {2: "no_image", 3: "a.jpg"}),
            ("image,title\na.jpg,b,c\nb.jpg,x\n", {2: "bad_row", 3: "b.jpg"}),
            ('title,image\n"x,a.jpg\ny,b.jpg\n', {2: "bad_row", 3: "b.jpg"}),
            ('title,image\n"x" y,a.jpg\ny,b.jpg\n', {2: "bad_row", 3: "b.jpg"}),
            ('image,title\n"a.jpg,x\nb.jpg,y\nc.jpg,"z"\n', {2: "bad_row", 3: "b.jpg", 4: "c.jpg"}),
            ('image,title\n"a\nb.jpg",x\nc.jpg,y\n', {2: "bad_row", 3: 'b.jpg"', 4: "c.jpg"}),
            (b"image,title\na.jpg,\xff\nb.jpg,x\n", {2: "bad_row", 3: "b.jpg"}),
            (b'title,image\n"x\n\xff",a.jpg\ny,b.jpg\n', {2: "bad_row", 3: "bad_row", 4: "b.jpg"}),
            ("image,title\na.jpg,n\0\nb.jpg,x\n", {2: "bad_row", 3: "b.jpg"}),
            ("image,title\na.jpg," + "x" * 70_000 + "\nb.jpg,x\n", {2: "bad_row", 3: "b.jpg"}),
            ('title,image\n"' + "x\n" * 40_000 + '",a.jpg\n', None),
            ("image,pack\na.jpg," + "p" * 121 + "\n", {2: "bad_pack"}),
        ],
    )
    async def test_rows(self, tmp_path, content, found):
        read = await of(tmp_path / "list.csv", content)
        if found is None:  # a cell too long costs its own lines, and each of those names none
            assert len(read) == 40_001
            assert set(read.values()) == {"bad_row", "no_image"}
        else:
            assert read == found

    async def test_columns_in_any_order_and_case(self, tmp_path):
        path = tmp_path / "list.csv"
        path.write_text("ID,File Name,x,Image,PACK\n7,n,,/a.jpg,P\n,,,/b.jpg,\n")
        first, second = [delivery.job for delivery in await drained(ManifestSource(str(path)))]
        assert first == Job(image="/a.jpg", pack="P", file_name="n", id="7")
        assert second == Job(image="/b.jpg")

    async def test_a_header_and_nothing_else(self, tmp_path):
        assert await of(tmp_path / "list.csv", "image,pack") == {}


class TestWholeManifests:
    @pytest.mark.parametrize(
        ("name", "content", "code"),
        [
            ("a.csv", b"title,price\n1,2\n", "no_image_column"),
            ("a.csv", b"a.jpg\nb.jpg\n", "no_image_column"),
            ("a.csv", b"image,Image\n", "ambiguous_column"),
            ("a.csv", b"image,file_name,file name\n", "ambiguous_column"),
            ("a.csv", b"sep=;\nimage,pack\n", "no_image_column"),
            ("a.csv", b"x" * 70_000 + b"\na.jpg\n", "no_image_column"),
            ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, "not_text"),
            ("a.jsonl", b"\0" * 1000, "not_text"),
            ("a.txt", "a.jpg\n".encode("utf-16"), "not_utf8"),
            ("a.csv", "image\n".encode("utf-16-be").join([b"\xfe\xff", b""]), "not_utf8"),
            ("a.jsonl", b'[\n{"image": "a.jpg"}\n]', "not_json_lines"),
        ],
    )
    async def test_what_is_none(self, tmp_path, name, content, code):
        path = tmp_path / name
        path.write_bytes(content)
        source = ManifestSource(str(path))
        for look in (drained, lambda source: anyio.to_thread.run_sync(source.check)):
            with pytest.raises(UsageError) as caught:
                await look(source)
            assert caught.value.code == code
            assert caught.value.hint
            assert str(path) in str(caught.value)

    async def test_a_header_without_an_end_shows_when_it_is_read(self, tmp_path):
        (tmp_path / "a.csv").write_bytes(b"title")
        with pytest.raises(UsageError, match="no column named image"):
            await drained(ManifestSource(str(tmp_path / "a.csv")))

    async def test_a_directory_is_none(self, tmp_path):
        (tmp_path / "x.csv").mkdir()
        source = ManifestSource(str(tmp_path / "x.csv"))
        with pytest.raises(UsageError, match="is a directory") as caught:
            source.check()
        assert caught.value.code == "no_such_source"
        with pytest.raises(UsageError, match="is a directory"):
            await drained(source)

    @pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
    async def test_an_empty_one_names_nothing(self, tmp_path, name):
        assert await of(tmp_path / name, b"") == {}
        assert await of(tmp_path / name, b"\xef\xbb\xbf") == {}

    async def test_a_closed_standard_input(self):
        with pytest.raises(UsageError, match="standard input"):
            await drained(StdinSource(descriptor=999_999))

    async def test_how_many_lines_it_has(self, tmp_path):
        (tmp_path / "a.csv").write_text("image\na\nb\n")
        assert await ManifestSource(str(tmp_path / "a.csv")).count() == 2
        assert await ManifestSource(str(tmp_path / "none.csv")).count() == 0
        os.mkfifo(tmp_path / "b.csv")
        assert await ManifestSource(str(tmp_path / "b.csv")).count() == 0

    async def test_ignored_columns_and_fields_are_told_once(self, tmp_path, monkeypatch):
        told = []

        class Log:
            def warning(self, event: str, **data: object) -> None:
                told.append((event, data))

        monkeypatch.setattr(rows, "log", Log())
        await of(tmp_path / "a.csv", "image,Title,x\na,1,2\nb,1,2\n")
        await of(tmp_path / "a.jsonl", '{"image":"a","t":1}\n{"image":"b","t":1}\n')
        assert [event for event, _ in told] == ["manifest.columns_ignored", "manifest.fields_ignored"]
        assert told[0][1]["columns"] == ["Title", "x"]
        assert told[1][1]["fields"] == {"t": 2}
        assert logging.get_logger("sources")


class TestPlaces:
    async def test_paths_are_relative_to_the_manifest_as_it_was_named(self, tmp_path, monkeypatch):
        (tmp_path / "lists").mkdir()
        (tmp_path / "there").mkdir()
        (tmp_path / "lists" / "list.txt").write_text("a.jpg\n")
        (tmp_path / "there" / "link.txt").symlink_to(tmp_path / "lists" / "list.txt")
        monkeypatch.chdir(tmp_path / "there")
        (delivery,) = await drained(ManifestSource("link.txt"))
        assert delivery.job.image == str(tmp_path / "there" / "a.jpg")
        (delivery,) = await drained(ManifestSource("../lists/list.txt"))
        assert delivery.job.image == str(tmp_path / "lists" / "a.jpg")
        assert ManifestSource("../lists/list.txt").origin == str(tmp_path / "lists" / "list.txt")

    async def test_dots_are_resolved_past_links_as_the_system_does(self, tmp_path):
        (tmp_path / "far" / "deep").mkdir(parents=True)
        (tmp_path / "near").symlink_to(tmp_path / "far" / "deep")
        assert await of(tmp_path / "list.txt", "near/../a.jpg\n/..b/c.jpg") == {1: "far/a.jpg", 2: "/..b/c.jpg"}

    async def test_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", "/home/of/mine")
        assert await of(tmp_path / "list.txt", "~/a.jpg\n./~/a.jpg\n~x\n") == {
            1: "/home/of/mine/a.jpg",
            2: "~/a.jpg",
            3: "~x",
        }

    async def test_a_file_comes_with_its_stamp_and_nothing_else_does(self, tmp_path):
        (tmp_path / "a.jpg").write_bytes(b"1234")
        os.utime(tmp_path / "a.jpg", ns=(5, 5))
        (tmp_path / "list.txt").write_text("a.jpg\nnone.jpg\nhttps://h/a.jpg\n")
        stamps = [delivery.stamp for delivery in await drained(ManifestSource(str(tmp_path / "list.txt")))]
        assert stamps == [FileStamp(size_bytes=4, mtime_ns=5), None, None]


class TestIds:
    async def test_an_id_belongs_to_the_first_row_that_has_it(self, tmp_path):
        lines = [
            {"image": "a.jpg", "id": "1"},
            {"image": "b.jpg", "id": "1"},
            {"image": "./a.jpg", "id": "1"},
            {"image": "b.jpg", "id": "1", "pack": "other"},
            {"image": "b.jpg"},
            {"image": "c.jpg", "id": "1"},
            {"image": "https://h/1", "id": "2"},
            {"image": "https://h/2", "id": "2"},
        ]
        path = tmp_path / "list.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)))
        source = ManifestSource(str(path))
        for _ in range(2):  # in each pass the same
            refused = {
                delivery.place: delivery.job.detail
                for delivery in await drained(source)
                if isinstance(delivery.job, NoJob)
            }
            assert refused == {
                "2": "its id is that of line 1, which names another image",
                "6": "its id is that of line 1, which names another image",
                "8": "its id is that of line 7, which names another image",
            }

    async def test_a_full_disk_under_many_ids_ends_it(self, tmp_path, monkeypatch):
        def full(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr("ingest.sources.ids.sqlite3.connect", full)
        (tmp_path / "list.jsonl").write_text('{"image":"a","id":"1"}')
        with pytest.raises(MachineError, match="disk is full"):
            await drained(ManifestSource(str(tmp_path / "list.jsonl")))


class TestWhileItIsRead:
    async def test_a_pipe_is_read_as_it_comes(self, tmp_path):
        path = tmp_path / "list.jsonl"
        os.mkfifo(path)
        source = ManifestSource(str(path))
        source.check()  # does not wait, and opens nothing
        async with source.open() as batches:
            writing = os.open(path, os.O_WRONLY)
            os.write(writing, b'{"image":"1.jpg"}\n')
            assert [delivery.place for delivery in await anext(batches)] == ["1"]
            os.write(writing, b'{"image":"2.jpg"}\n')
            os.close(writing)
            assert [delivery.place for delivery in await anext(batches)] == ["2"]
            with pytest.raises(StopAsyncIteration):
                await anext(batches)
        assert source.report.unreadable_count == 0

    async def test_waiting_for_a_pipe_can_be_cancelled(self, tmp_path):
        os.mkfifo(tmp_path / "list.txt")
        with anyio.move_on_after(0.05) as scope:
            await drained(ManifestSource(str(tmp_path / "list.txt")))
        assert scope.cancelled_caught

    async def test_standard_input(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        reading, writing = os.pipe()
        os.write(writing, b'{"image":"a.jpg"}\n[]\n')
        os.close(writing)
        source = StdinSource(descriptor=reading)
        jobs = [delivery.job for delivery in await drained(source)]
        assert jobs[0] == Job(image=str(tmp_path / "a.jpg"))
        assert isinstance(jobs[1], NoJob)
        os.close(reading)

    @pytest.mark.parametrize("change", ["append", "truncate", "rewrite"])
    async def test_one_that_changes_is_told(self, tmp_path, change):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{number}.jpg\n" for number in range(100_000)))
        source = ManifestSource(str(path))
        places = []
        async with source.open() as batches:
            async for batch in batches:
                if not places:
                    match change:
                        case "append":
                            with path.open("a") as file:
                                file.write("more.jpg\n")
                        case "truncate":
                            os.truncate(path, 10)
                        case "rewrite":
                            os.utime(path, ns=(1, 1))
                places += [int(delivery.place) for delivery in batch]
        assert places == list(range(1, len(places) + 1))
        assert (len(places) == 100_001) == (change == "append")
        assert source.report.unreadable_count == 1
        assert "changed while it was read" in source.report.unreadable[0]

    async def test_one_that_is_replaced_is_read_as_it_was(self, tmp_path):
        path = tmp_path / "list.txt"
        path.write_text("".join(f"{number}.jpg\n" for number in range(1000)))
        source = ManifestSource(str(path))
        async with source.open() as batches:
            seen = len(await anext(batches))
            (tmp_path / "new").write_text("other.jpg\n")
            (tmp_path / "new").replace(path)
            seen += sum([len(batch) async for batch in batches])
        assert seen == 1000
        assert source.report.unreadable_count == 0

    async def test_a_disk_that_fails_is_told(self, tmp_path, monkeypatch):
        path = tmp_path / "list.txt"
        path.write_text("a.jpg\n")

        def fails(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(manifest, "rows", fails)
        source = ManifestSource(str(path))
        assert await drained(source) == []
        assert source.report.unreadable == [f"{path}: Input/output error"]

    async def test_files_are_closed_however_it_is_left(self, tmp_path):
        (tmp_path / "list.jsonl").write_text('{"image":"a","id":"1"}\n' * 1000)
        before = len(os.listdir("/proc/self/fd"))
        for turns in (0, 1, 1000):
            async with ManifestSource(str(tmp_path / "list.jsonl")).open() as batches:
                for _ in range(turns):
                    if await anext(batches, None) is None:
                        break
        assert len(os.listdir("/proc/self/fd")) == before


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).map(str.strip).filter(bool)
table = st.lists(st.tuples(cells, st.none() | cells, st.none() | cells, st.none() | cells, cells), max_size=20)


def read_back(written: Format, content: bytes) -> list[tuple[int, Job | Misread]]:
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        assert os.write(writing, content) == len(content) <= 65536
        os.close(writing)
        found = rows.rows(reading, written, shown="x", stop=threading.Event())
        return [row for row in found if row is not None]
    finally:
        os.close(reading)


@given(
    table,
    st.permutations(["image", "pack", "FILE_NAME", "Id", "other"]),
    st.sampled_from(",;\t|"),
    st.sampled_from(['"', "'"]),
    st.sampled_from(["\r\n", "\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_a_csv_writer_writes_comes_back(written, columns, delimiter, quote, end, quoting, mark):  # noqa: PLR0917
    file = io.StringIO(newline="")
    if quoting == csv.QUOTE_MINIMAL:
        quote = '"'  # or nothing would show which it is
    writer = csv.writer(file, delimiter=delimiter, quotechar=quote, lineterminator=end, quoting=quoting)
    writer.writerow(columns)
    order = ["image", "pack", "FILE_NAME", "Id", "other"]
    for row in written:
        writer.writerow([row[order.index(column)] or "" for column in columns])
    found = read_back(Format.CSV, mark + file.getvalue().encode())
    assert [job for _, job in found] == [
        Job(image=image, pack=pack, file_name=name, id=key) for image, pack, name, key, _ in written
    ]
    assert [number for number, _ in found] == list(range(2, len(written) + 2))


@given(st.lists(cells.filter(lambda text: not text.startswith("#")), max_size=20))
def test_what_is_written_line_by_line_comes_back(images):
    found = read_back(Format.TEXT, "\n".join(images).encode())
    assert found == [(number, Job(image=image)) for number, image in enumerate(images, start=1)]


@given(
    st.sampled_from(Format),
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from(
            [b"\n", b"\r", b'"', b"'", b",", b";", b"image", b"{", b'{"image":"a"}', b"\0", b"[", b"sep=;"]
        ),
        max_size=60,
    ),
    st.booleans(),
)  # fmt: skip
def test_any_bytes_are_rows_refused_rows_or_no_manifest(written, pieces, has_header):
    content = (b"image,pack\n" if has_header and written is Format.CSV else b"") + b"".join(pieces)
    try:
        found = read_back(written, content)
    except UsageError:
        return
    numbers = [number for number, _ in found]
    assert numbers == sorted(set(numbers))
    assert all(isinstance(read, Job | Misread) for _, read in found)
