"""What a page or a notebook shows, compared with what its code gives now."""

from __future__ import annotations

import re

NUMBER = re.compile(r"-?\d+\.\d*")
LARGEST_DIFFERENCE = 0.03
"""A cosine from int8 moves by about a hundredth between versions of the engine and instruction sets."""


def shows_the_same(shown: str, given: str) -> bool:
    """Compare two outputs.

    Args:
        shown: what stands in the page.
        given: what the code gives.

    Returns:
        Whether words and whole numbers are equal and decimal numbers near, spaces apart.
    """
    words = ["".join(NUMBER.sub("#", text).split()) for text in (shown, given)]
    numbers = [[float(found) for found in NUMBER.findall(text)] for text in (shown, given)]
    return words[0] == words[1] and all(
        abs(a - b) <= LARGEST_DIFFERENCE for a, b in zip(*numbers, strict=True)
    )
