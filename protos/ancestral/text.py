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


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python writes a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
