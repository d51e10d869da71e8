"""Colours for picture files: pages leave oklch and variables to the browser, what else reads SVG knows hex alone. Floor 7."""

from __future__ import annotations

import math
import re

LIGHTNESS, CHROMA = 0.6, 0.13  # of a hue in a drawing of its own; pages have a lightness for each theme


def hex_of(lightness: float, chroma: float, hue: float) -> str:
    """`oklch(lightness chroma hue)` as #rrggbb, clipped to what a screen has (Ottosson 2020, "A perceptual color space").

    Args:
        lightness: 0 black to 1 white.
        chroma: 0 grey; about 0.3 at the most.
        hue: in degrees.
    """
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(min(max(value, 0.0), 1.0))):02x}" for value in linear)


def plain(svg: str) -> str:
    """A picture whose hues (`style="--h:265"`) and variables with a fallback (`var(--name,#hex)`) are plain hex colours."""
    svg = re.sub(r'style="--h:(\d+)"', lambda found: f'style="color:{hex_of(LIGHTNESS, CHROMA, int(found[1]))}"', svg)
    svg = re.sub(r"color:oklch\(var[^;}]*\)[;]?", "", svg)
    return re.sub(r"var\(--[\w-]+,([^()]*)\)", r"\1", svg)


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
