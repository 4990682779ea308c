"""How names of files are shown to people, in messages, logs and reports.

Changes no name that is used to open, compare or store anything: what this returns is for reading only.
"""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""`text` on one line, with nothing in it that a terminal would obey.

    Bytes that are not UTF-8 (lone surrogates, as `os.fsdecode` gives them) become `\xNN`; line ends, control, format
    and unassigned characters their Python escape. Never fails and never changes a text that is printable already.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # PEP 383: the byte that could not be decoded, plus 0xDC00
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
