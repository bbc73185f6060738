"""Fonts for what users call their classes: any script."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.font_manager import FontProperties, fontManager, get_font


def fonts_with(letters: Iterable[str]) -> tuple[list[str], set[str]]:
    """Installed fonts that have the letters which the usual one lacks, and the letters that none has."""
    usual = get_font(fontManager.findfont(FontProperties())).get_charmap()
    lacking = {c for c in letters if c.isprintable() and not c.isspace() and ord(c) not in usual}
    names: list[str] = []
    for font in sorted(fontManager.ttflist, key=lambda font: (font.name, font.style != "normal")):
        if not lacking:
            break
        # Of the last resort: a placeholder for each letter, which comes with matplotlib.
        if font.name in names or font.name.startswith("Last Resort"):
            continue
        try:
            has = get_font(font.fname).get_charmap()
        except (OSError, RuntimeError):  # removed, or damaged
            continue
        if found := {c for c in lacking if ord(c) in has}:
            names.append(font.name)
            lacking -= found
    return names, lacking
