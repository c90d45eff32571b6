"""Fonts for names in any script, for frames and for Matplotlib's pictures."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=1024)
def font_for(text: str, usual: str) -> tuple[str, str]:
    """A font that can draw ``text``, and the text.

    Fonts are looked for where Matplotlib finds them; its own DejaVu Sans is always there. Upright
    sans-serif fonts of normal weight come first.

    Args:
        text: any.
        usual: file of the font to use if it can draw the text.

    Returns:
        A font's file, and the text as it can draw it. Where no font has all the characters, that
        is ``usual``, and the characters it lacks are replaced by codes such as ``U+4E2D``.
    """
    from matplotlib.font_manager import fontManager  # takes long to import

    codes = {ord(character) for character in text if not character.isspace()}
    missing = _missing(usual, codes)
    if not missing:
        return usual, text
    for entry in sorted(fontManager.ttflist, key=_preference):
        if not _missing(entry.fname, codes):
            return entry.fname, text
    return usual, text.translate({code: f"U+{code:04X} " for code in missing}).strip()


def _missing(file: str, codes: Iterable[int]) -> set[int]:
    """The characters that a font cannot draw."""
    from matplotlib.ft2font import FT2Font

    if "lastresort" in file.lower():  # it has a box for every character
        return set(codes)
    try:
        font = FT2Font(file)
    except (OSError, RuntimeError):  # damaged, or removed since Matplotlib listed it
        return set(codes)
    return {code for code in codes if not font.get_char_index(code)}


def _preference(entry) -> tuple:
    return (
        entry.style != "normal",
        str(entry.weight) not in ("400", "normal"),
        "Sans" not in entry.name,
        entry.name != "DejaVu Sans",
        entry.name,
        entry.fname,
    )
