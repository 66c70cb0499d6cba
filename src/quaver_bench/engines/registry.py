"""All forms by name, and how a user chooses them."""

from __future__ import annotations

from collections.abc import Sequence

from quaver.errors import InputError
from quaver_bench.engines import (
    Form,
    ctranslate2,
    fastembed,
    flashrank,
    inductor,
    ipex,
    llamacpp,
    onnxruntime,
    openvino,
    pytorch,
    quaver,
    sentence_transformers,
    zentorch,
)
from quaver_bench.kinds import EMBEDDER, Kind

ALL = "all"
"""The name that means every engine."""
OURS = "quaver-int8"
"""The base of every ratio."""
FAMILIES = {
    "quaver": quaver.FORMS,
    "openvino": openvino.FORMS,
    "onnxruntime": onnxruntime.FORMS,
    "torch": (*pytorch.FORMS, *inductor.FORMS),
    "sentence-transformers": sentence_transformers.FORMS,
    "fastembed": fastembed.FORMS,
    "ctranslate2": ctranslate2.FORMS,
    "llamacpp": llamacpp.FORMS,
    "ipex": ipex.FORMS,
    "zentorch": zentorch.FORMS,
    "flashrank": flashrank.FORMS,
}
FORMS = {form.name: form for forms in FAMILIES.values() for form in forms}
ALWAYS = (OURS, "quaver-float32")
"""Forms that are measured in every process."""
QUICK = ("openvino-int8", "openvino-float32", "onnxruntime-int8-dynamic", "torch-float32")


def choose_forms(names: Sequence[str], kind: Kind = EMBEDDER) -> list[Form]:
    """Return the forms with some names that run a kind of model.

    Args:
        names: names of forms ("openvino-int8") or engines ("openvino": all its forms); empty, or "all",
            for all forms.
        kind: of the model.

    Returns:
        the forms in the order of the tables. Quaver's int8 and float32 are always included: speed is
        compared with int8, and outputs with float32 if torch is not installed.

    Raises:
        InputError: a name is unknown, or has no form for this kind; the message lists the names.
    """
    able = [form for form in FORMS.values() if kind.name in form.kinds]
    if ALL in names or not names:
        return able
    chosen = set(ALWAYS)
    for name in names:
        if name not in FAMILIES and name not in FORMS:
            raise InputError(
                f"an engine must be one of {', '.join(FAMILIES)}, or a form of one, of "
                f"{', '.join(FORMS)}: got {name!r}"
            )
        found = {form.name for form in FAMILIES.get(name) or (FORMS[name],)}
        if not found.intersection(form.name for form in able):
            raise InputError(
                f"{kind.title} is measured with {', '.join(form.name for form in able)}: "
                f"got {name!r}"
            )
        chosen |= found
    return [form for form in able if form.name in chosen]
