"""Enrichment looks at the pixels, says what is there, and says why when it can't."""

from __future__ import annotations

import io
import struct
import zlib

import anyio
import pytest
from PIL import Image, ImageDraw
from sandbox_client import picture

from ingest.sandbox import look as look_module
from ingest.sandbox.look import NotAnImageError, look


def hollow_png(width: int, height: int) -> bytes:
    """A PNG that claims a size, and holds no pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("colour", "size", "words"),
    [
        ("blue", (800, 600), {"blue", "landscape", "medium-sized", "plain"}),
        ("white", (600, 800), {"white", "portrait", "bright"}),
        ("black", (32, 32), {"black", "square", "icon-sized", "dark"}),
        ("#804000", (2000, 300), {"brown", "panorama", "large"}),
        ("#ff8800", (100, 90), {"orange", "landscape", "small"}),
        ("#008000", (90, 100), {"green", "portrait"}),
        ("#808080", (4000, 4000), {"grey", "very large", "evenly lit"}),
    ],
)
def test_words_come_from_the_pixels(colour, size, words):
    seen = look(picture(colour, size))
    assert words <= set(seen.keywords)
    assert f"{size[0]}×{size[1]}" in seen.description
    assert "jpeg" in seen.keywords


def test_two_colours_are_named_in_order_of_their_share():
    image = Image.new("RGB", (100, 100), "red")
    ImageDraw.Draw(image).rectangle((0, 0, 30, 100), fill="blue")
    file = io.BytesIO()
    image.save(file, "PNG")
    assert "red and blue" in look(file.getvalue()).description


def test_detail_transparency_and_animation():
    file = io.BytesIO()
    Image.effect_noise((100, 100), 120).save(file, "PNG")
    assert {"detailed", "png"} <= set(look(file.getvalue()).keywords)
    file = io.BytesIO()
    Image.new("RGBA", (10, 10), (255, 0, 0, 0)).save(file, "WEBP")
    assert {"transparent", "webp"} <= set(look(file.getvalue()).keywords)
    file = io.BytesIO()
    Image.new("P", (10, 10)).save(file, "PNG", transparency=bytes(256))
    assert "transparent" in look(file.getvalue()).keywords
    file = io.BytesIO()
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert {"animated", "gif"} <= set(look(file.getvalue()).keywords)


def test_a_picture_taken_upright_is_a_portrait():
    file = io.BytesIO()
    image = Image.new("RGB", (80, 60))
    exif = image.getexif()
    exif[0x0112] = 6  # orientation: turn by 90°
    image.save(file, "JPEG", exif=exif)
    seen = look(file.getvalue())
    assert "portrait" in seen.keywords
    assert "60×80" in seen.description


def test_the_same_bytes_give_the_same_words():
    assert look(picture()) == look(picture())


@pytest.mark.parametrize("data", [b"", b"<html></html>", b"%PDF-1.7", picture()[:200], hollow_png(100, 100)])
def test_what_is_no_image(data):
    with pytest.raises(NotAnImageError, match="not a readable image"):
        look(data)


@pytest.mark.parametrize("side", [12_000, 60_000])
def test_a_decompression_bomb_is_not_decoded(side):
    with pytest.raises(NotAnImageError, match="too many pixels"):
        look(hollow_png(side, side))


def test_heic_needs_its_decoder(monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (64, 64), "green")).save(file)
    assert {"green", "heif"} <= set(look(file.getvalue()).keywords)
    monkeypatch.setattr(look_module, "open_heif", None)
    with pytest.raises(NotAnImageError, match="ingest\\[heif\\]"):
        look(file.getvalue())


async def enriched(client, pack_id: str) -> list:
    """The metadata of every image, when none is waiting any more."""
    while True:
        images = [image["metadata"] for image in await client.images(pack_id)]
        if all(image["status"] in ("completed", "failed") for image in images):
            return images
        await anyio.sleep(0.01)


async def test_an_image_goes_from_pending_to_completed(serving):
    async with serving(enrich=True, enrich_delay_s=0.3) as client:
        pack_id = await client.make_pack()
        await client.add(pack_id, await client.upload(picture("blue", (800, 600))))
        pending = {"status": "pending", "description": None, "keywords": [], "model": None}
        (image,) = await client.images(pack_id)
        assert image["metadata"] == pending | {"generated_at": None, "error": None}
        (metadata,) = await enriched(client, pack_id)
        assert metadata["model"] == "sandbox"
        assert metadata["error"] is None
        assert metadata["generated_at"].endswith("Z")
        assert "blue" in metadata["keywords"]
        assert "landscape" in metadata["description"]
        for search in ("BLUE", "landscape image in"):
            _, answer = await client.call("GET", f"/packs?search={search}")
            assert [pack["id"] for pack in answer["data"]["packs"]] == [pack_id]


async def test_what_cannot_be_looked_at_fails_and_holds_up_nothing(serving):
    async with serving(enrich=True, enrich_delay_s=0.0) as client:
        pack_id = await client.make_pack()
        await client.add(pack_id, "https://example.com/elsewhere.jpg")
        await client.add(pack_id, (await client.reserve())["url"])
        await client.add(pack_id, await client.upload(b"<html></html>"))
        await client.add(pack_id, await client.upload(picture()))
        metadata = await enriched(client, pack_id)
        assert [image["status"] for image in metadata] == ["failed", "failed", "failed", "completed"]
        assert ["unreachable" in (image["error"] or "") for image in metadata] == [True, True, False, False]
        assert "not a readable image" in metadata[2]["error"]


async def test_an_image_that_is_deleted_while_it_waits_is_forgotten(serving):
    async with serving(enrich=True, enrich_delay_s=0.1) as client:
        pack_id = await client.make_pack()
        _, answer = await client.add(pack_id, "https://example.com/a.jpg")
        await client.call("DELETE", f"/packs/{pack_id}/images/{answer['data']['id']}")
        await client.add(pack_id, await client.upload(picture()))
        assert [image["status"] for image in await enriched(client, pack_id)] == ["completed"]


async def test_without_enrichment_everything_stays_pending(serving):
    async with serving(enrich=False, enrich_delay_s=0.0) as client:
        pack_id = await client.make_pack()
        await client.add(pack_id, await client.upload(picture()))
        (image,) = await client.images(pack_id)
        assert image["metadata"]["status"] == "pending"
