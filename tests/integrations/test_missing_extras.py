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
    ("module", "extra"),
    [
        ("quaver.integrations.langchain", "langchain"),
        ("quaver.integrations.llamaindex", "llamaindex"),
        ("quaver.integrations.chroma", "chroma"),
        ("quaver.integrations.lancedb", "lancedb"),
        ("quaver.serve", "serve"),
        ("haystack_integrations.components.embedders.quaver", "haystack"),
    ],
)
def test_an_integration_without_its_framework_names_the_extra(module: str, extra: str) -> None:
    libraries = ["haystack", "langchain_core", "llama_index", "chromadb", "lancedb", "starlette"]
    hidden = f"import sys; sys.modules.update(dict.fromkeys({libraries}))"
    code = f"{hidden}\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'quaver[{extra}]'")
