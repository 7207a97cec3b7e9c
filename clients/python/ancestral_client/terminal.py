"""What commands show of texts that are not theirs: names, reasons, descriptions, messages, files."""

from __future__ import annotations

import unicodedata
from typing import Any

from rich.console import Console


def shown(text: object) -> str:
    """A text in one line, with escapes for what would act on a terminal or cannot be seen or encoded.

    These are control characters (of which ANSI's sequences and line breaks are made), marks that turn the direction of
    writing, and the bytes of a file name that is not UTF-8.
    """
    return "".join(
        letter if letter.isprintable() or unicodedata.category(letter) == "Zs" else _escaped(letter)
        for letter in str(text)
    )


def console(**options: Any) -> Console:
    """A console that takes every text literally: brackets are no markup, and `:smile:` is a word."""
    return Console(markup=False, emoji=False, highlight=False, **options)


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # how Python writes a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode("ascii")
