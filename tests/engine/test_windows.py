"""Where the parts of a long text are read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quaver.engine import choose_windows


@given(tokens=st.integers(1, 3000), room=st.integers(1, 600), data=st.data())
def test_every_part_is_read_once_in_a_window_that_holds_it(
    tokens: int, room: int, data: st.DataObject
) -> None:
    firsts = data.draw(st.lists(st.integers(0, tokens - 1), max_size=30))
    parts = np.array(
        [(first, data.draw(st.integers(first + 1, tokens))) for first in firsts], np.int32
    ).reshape(-1, 2)
    found, truncated = choose_windows(tokens, parts, room)
    lengths = parts[:, 1] - parts[:, 0]
    assert truncated == int((lengths > room).sum())
    assert sorted(place for window in found for place in window.places) == list(range(len(parts)))
    for window in found:
        assert 0 <= window.first < window.last <= tokens
        assert window.last - window.first == min(room, tokens)
        for place, (first, last) in zip(window.places, window.parts.tolist(), strict=True):
            assert 0 <= first < last <= window.last - window.first
            assert window.first + first == parts[place, 0]
            assert last - first == min(lengths[place], room)
    # A part is read in the same window whatever else is asked for.
    for place, part in enumerate(parts):
        ((alone,), _) = choose_windows(tokens, part[None], room)
        (together,) = (window for window in found if place in window.places)
        assert (alone.first, alone.last) == (together.first, together.last)


def test_a_text_that_fits_is_read_once() -> None:
    parts = np.array([(0, 10), (5, 100), (99, 100)], np.int32)
    (window,), truncated = choose_windows(100, parts, 100)
    assert (window.first, window.last, window.places, truncated) == (0, 100, [0, 1, 2], 0)
    assert np.array_equal(window.parts, parts)


def test_a_part_sees_text_on_both_sides() -> None:
    room = 100
    parts = np.array([(start, start + 20) for start in range(0, 1000, 20)], np.int32)
    found, _ = choose_windows(1000, parts, room)
    for window in found:
        for first, last in window.parts.tolist():
            assert first >= 15 or window.first == 0
            assert last <= room - 15 or window.last == 1000
    # Half of each window is read twice, so the whole text costs about twice its tokens.
    assert len(found) <= 2 * 1000 / room
