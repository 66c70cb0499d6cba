"""Every update of an index reads its documents in the same process."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def one_process_reads(shared_converter: None) -> None:
    """See `shared_converter`; how such a process starts and ends is tested with the documents."""
