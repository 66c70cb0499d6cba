"""Compare with the code that GTE's and Jina's authors publish on the hub, which is in no package.

Needs torch, transformers 4 (`transformers<4.50`: the files are older than version 5), and the authors'
files, which you download and review yourself: only this script runs them, never Quaver.

    python tools/published_code.py gte FOLDER/modeling.py         with configuration.py next to it
    python tools/published_code.py jina FOLDER/modeling_bert.py   with configuration_bert.py next to it

They are in Alibaba-NLP/new-impl and jinaai/jina-bert-implementation. Random models of
`tools/families.py` are computed three ways: by that code, by `published_forms.py`, which replaces it
in `make parity-families`, and by Quaver in float32.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from families import CASES, make, random_batch, relative, states_of, tensors_of
from quaver import reference
from quaver.engine.engine import Engine
from quaver.models.families.registry import encoder_spec, encoder_weights

# Difference between two orders of float32 sums, relative to the largest value.
LARGEST_ERROR = 1e-4
MODELS = {
    "gte": ("GteV15", "configuration", "NewConfig", "NewModel"),
    "jina": ("JinaV2", "configuration_bert", "JinaBertConfig", "JinaBertModel"),
}


def authors_model(family: str, path: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Any:
    """Run the authors' code, and load random weights into its model.

    Args:
        family: a key of `MODELS`.
        path: the modeling file.
        config: config.json of the model.
        tensors: its tensors.

    Returns:
        The model; the tensors of both must match.
    """
    _, configuration, config_class, model_class = MODELS[family]
    for name in [name for name in sys.modules if name.partition(".")[0] == "published"]:
        del sys.modules[name]  # of another file
    spec = ModuleSpec("published", None, is_package=True)
    spec.submodule_search_locations = [str(path.resolve().parent)]
    sys.modules["published"] = module_from_spec(spec)
    settings = importlib.import_module(f"published.{configuration}")
    modeling = importlib.import_module(f"published.{path.stem}")
    values = {key: value for key, value in config.items() if key != "model_type"}
    values["pad_token_id"] = 0  # as the published configurations say
    made = getattr(settings, config_class)(**values)
    model = getattr(modeling, model_class)(made, add_pooling_layer=False)
    model.load_state_dict({name: torch.from_numpy(t.copy()) for name, t in tensors.items()})
    return model.float().eval()


def compare(family: str, path: Path, *, real: bool) -> float:
    """Print a row for each of the three; return the largest difference."""
    case = next(case for case in CASES if case.name == MODELS[family][0])
    form = make(case, head=False, real=real)
    with tempfile.TemporaryDirectory() as folder:
        config, tensors = tensors_of(form, Path(folder))
    batch = random_batch(config["vocab_size"], (16, 128, 300) if real else (1, 2, 3, 17, 40, 29))
    truth = states_of(authors_model(family, path, config, tensors), batch)
    spec = encoder_spec(config, pooling="cls+mean", normalize=False)
    weights = encoder_weights(spec, tensors)
    pooled = reference.pool(spec, truth[-1], batch.offsets)
    ways = {"published_forms.py, each layer": list(zip(states_of(form, batch), truth, strict=True))}
    if not real:
        states = reference.hidden_states(spec, weights, batch)
        ways["Quaver's reference, each layer"] = list(zip(states, truth, strict=True))
    vectors = Engine(spec, weights, precision="float32").encode(batch)
    ways["Quaver's engine, pooled"] = [(vectors, pooled)]
    worst = 0.0
    shape = f"{case.real[0] if real else 'reduced'}, {spec.hidden_size} x {len(spec.layers)}"
    for way, pairs in ways.items():
        error = max(relative(got, wanted) for got, wanted in pairs)
        largest = max(float(np.abs(got - wanted).max()) for got, wanted in pairs)
        print(f"{case.name} ({shape}): {way:32} {error:.1e} of the largest value, {largest:.1e}")
        worst = max(worst, error)
    return worst


def main() -> int:
    """Compare, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("family", choices=sorted(MODELS))
    parser.add_argument("path", type=Path, help="the authors' modeling file, which is run")
    options = parser.parse_args()
    errors = [compare(options.family, options.path, real=real) for real in (False, True)]
    if max(errors) > LARGEST_ERROR:
        print(f"PARITY BROKEN: {max(errors):.1e}, allowed {LARGEST_ERROR}", file=sys.stderr)
    return int(max(errors) > LARGEST_ERROR)


if __name__ == "__main__":
    sys.exit(main())
