"""An integration without its framework names the extra to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

from quaver.errors import needs_extra


def test_a_missing_library_names_its_extra() -> None:
    with (
        pytest.raises(ImportError, match=r"no_such_library .* pip install 'quaver\[haystack\]'"),
        needs_extra("haystack"),
    ):
        import no_such_library  # noqa: F401


@pytest.mark.parametrize(
    ("named", "extra"),
    [
        ("import quaver.integrations.langchain", "langchain"),
        ("import quaver.integrations.llamaindex", "llamaindex"),
        ("import quaver.integrations.chroma", "chroma"),
        ("import quaver.integrations.lancedb", "lancedb"),
        ("from quaver.serve import create_app", "serve"),
        ("import haystack_integrations.components.embedders.quaver", "haystack"),
    ],
)
def test_an_integration_without_its_framework_names_the_extra(named: str, extra: str) -> None:
    libraries = ["haystack", "langchain_core", "llama_index", "chromadb", "lancedb", "starlette"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({libraries}))"
    code = f"{hidden}\n{named}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'quaver[{extra}]'")
