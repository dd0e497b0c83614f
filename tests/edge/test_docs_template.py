"""How the page of the API's document looks, as far as that can be counted."""

from __future__ import annotations

import re

from meterd.edge.docs_template import STYLE

LIGHT, DARK = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6});", block))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    channels = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_can_be_read_by_day_and_by_night() -> None:
    """4.5 to 1 on both backgrounds (WCAG 2.2, 1.4.3)."""
    for block in (LIGHT, DARK):
        shown = colours(block)
        assert set(shown) == {"ink", "faint", "paper", "edge", "code", "link", "get", "post", "bad"}
        for name in ("ink", "faint", "link", "get", "post", "bad"):
            for ground in ("paper", "code"):
                darker, lighter = sorted((luminance(shown[name]), luminance(shown[ground])))
                assert (lighter + 0.05) / (darker + 0.05) >= 4.5, f"{name} on {ground}"


def test_it_is_for_small_screens_and_paper_too() -> None:
    """And the style is whole: what is opened is closed."""
    for medium in ("(prefers-color-scheme: dark)", "(max-width: 56rem)", "print"):
        assert f"@media {medium}" in STYLE
    assert STYLE.count("{") == STYLE.count("}")
