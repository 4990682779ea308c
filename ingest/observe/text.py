"""How names of files and URLs of images are shown to people, in messages, logs and reports.

Changes no name that is used to open, compare or store anything: what this returns is for reading only.
"""

from __future__ import annotations

from ingest.model import is_url

__all__ = ["printable", "shown", "without_secrets"]


def printable(text: str) -> str:
    r"""`text` on one line, with nothing in it that a terminal would obey.

    Bytes that are not UTF-8 (lone surrogates, as `os.fsdecode` gives them) become `\xNN`; line ends, control, format
    and unassigned characters their Python escape. Never fails and never changes a text that is printable already.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def shown(image: str) -> str:
    """A path or URL of an image, `printable` and `without_secrets`."""
    return printable(without_secrets(image))


def without_secrets(image: str) -> str:
    """A path as it is, of a URL what is no secret: no user, password, query or fragment.

    `?…` stands for a query: it may sign the URL, and does so more often than not where there is one.
    """
    if not is_url(image):
        return image
    place, mark, _ = image.partition("#")[0].partition("?")
    scheme, separator, rest = place.partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}{'?…' if mark else ''}"


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: the byte that could not be decoded, plus 0xDC00
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
