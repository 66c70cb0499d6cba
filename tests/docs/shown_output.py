"""Compare the output that a page or notebook shows with the output of its code."""

from __future__ import annotations

import re

NUMBER = re.compile(r"-?\d+\.\d*")
LARGEST_DIFFERENCE = 0.03
"""Cosines of int8 vectors differ by about a hundredth between versions and instruction sets."""


def shows_the_same(shown: str, given: str) -> bool:
    """Compare two outputs.

    Args:
        shown: the output in the page.
        given: the output of the code.

    Returns:
        Whether words and whole numbers are equal and decimal numbers close, ignoring white space.
    """
    words = ["".join(NUMBER.sub("#", text).split()) for text in (shown, given)]
    numbers = [[float(found) for found in NUMBER.findall(text)] for text in (shown, given)]
    return words[0] == words[1] and all(
        abs(a - b) <= LARGEST_DIFFERENCE for a, b in zip(*numbers, strict=True)
    )
