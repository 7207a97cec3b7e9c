"""Texts of others, shown to people: names, reasons, descriptions, messages, files."""

from __future__ import annotations

import unicodedata


def shown(text: object) -> str:
    """A text in one line, with escapes for what would act on a terminal or cannot be seen or encoded.

    These are control characters (of which ANSI's sequences and line breaks are made), marks that turn the direction of
    writing, and the bytes of a file name that is not UTF-8.
    """
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else _escaped(letter)
        for letter in str(text)
    )


def shown_lines(text: object) -> str:
    """A text that may have several lines, each as `shown`."""
    return "\n".join(map(shown, str(text).split("\n")))


def short(text: str, most: int = 64) -> str:
    """The beginning of a text that somebody gave, for a message to them: what is left out is three dots."""
    return text if len(text) <= most else f"{text[:most]}..."


def one_line(text: object, most: int = 400) -> str:
    """The words of a text, as of a library's error, in one line that is as short as `short` makes it."""
    return short(" ".join(str(text).split()), most)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python writes a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
