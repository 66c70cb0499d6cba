"""Pages, examples and the notebook run without a network; the notebook where Jupyter's client is."""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"

collect_ignore = [] if find_spec("nbclient") else ["test_notebook.py"]
