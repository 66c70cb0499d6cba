"""Where the parts of a text are read: a text longer than the model is read in windows that overlap."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Window(NamedTuple):
    """Neighboring tokens of a text that the model reads together.

    Attributes:
        first: the first token.
        last: the token after the last.
        places: which parts of the text get their vectors here.
        parts: int32 (s, 2), these parts: the first token of each and the one after its last, counted
            from `first`.
    """

    first: int
    last: int
    places: list[int]
    parts: NDArray[np.int32]


def choose_windows(tokens: int, parts: NDArray[np.int32], room: int) -> tuple[list[Window], int]:
    """Choose a window for each part of a text.

    A text that fits is one window. For a longer one there is a window every half `room`, and a part is
    read in the window that holds it nearest to its middle, so it sees text on both sides. A part that
    no window holds gets one of its own. So a part's window does not depend on the other parts.

    Args:
        tokens: tokens of the text.
        parts: int32 (S, 2), the first token of each part and the one after its last, at least one token.
        room: maximum number of tokens in a window, at least 1; a longer part loses its end.

    Returns:
        windows that have parts, in order; and the number of parts that lost their end.
    """
    begins = [*range(0, max(tokens - room, 0), max(room // 2, 1)), max(tokens - room, 0)]
    found: dict[int, list[tuple[int, int, int]]] = {}
    truncated = 0
    grid = np.array(begins, np.int64)
    for place, (first, last) in enumerate(parts.tolist()):
        if last - first > room:
            truncated += 1
            last = first + room
        # The grid rises, so those that hold the part are neighbors.
        low = int(np.searchsorted(grid, last - room))
        high = int(np.searchsorted(grid, first, side="right"))
        middle = first + last - room  # twice where the best window would begin
        if low < high:
            begin = min(begins[low:high], key=lambda begin: (abs(2 * begin - middle), begin))
        else:
            begin = min(max(middle // 2, 0), max(tokens - room, 0))
        found.setdefault(begin, []).append((place, first - begin, last - begin))
    made = [
        Window(
            begin,
            min(begin + room, tokens),
            [place for place, _, _ in held],
            np.array([part for _, *part in held], np.int32),
        )
        for begin, held in sorted(found.items())
    ]
    return made, truncated
