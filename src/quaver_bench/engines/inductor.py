"""torch inductor in int8: torchao's X86InductorQuantizer, static, compiled with freezing."""

from __future__ import annotations

import warnings
from typing import Any

from quaver_bench.engines import CannotRunError, Engine, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.engines.pytorch import pooled_module
from quaver_bench.inputs import PaddedBatch


class InductorEngine(PaddedEngine):
    """Exported, calibrated, converted, compiled for lengths that change."""

    def __init__(self, setup: Setup) -> None:
        """Quantize and set up the compiler; it compiles in the first calls.

        Args:
            setup: see `Setup`.
        """
        import torch
        import torch._inductor.config as inductor
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        inductor.freezing = True
        mask = torch.ones((2, 8), dtype=torch.int64)
        mask[1, 5:] = 0
        axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                pooled_module(setup),
                (torch.ones((2, 8), dtype=torch.int64), mask),
                dynamic_shapes=(axes, axes),
            ).module()
            prepared = prepare_pt2e(exported, quantizer)
            for text in setup.calibration:
                ids = torch.from_numpy(text[None])
                pair = torch.cat([ids, ids])  # a batch of one would be another program
                prepared(pair, torch.ones_like(pair))
            self._model = torch.compile(convert_pt2e(prepared), dynamic=True)
        self.settings = {"threads": torch.get_num_threads(), "quantizer": "X86InductorQuantizer"}

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        return torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)

    def compute(self, inputs: Any) -> Vectors:
        """Run the compiled model."""
        import torch

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors: Vectors = self._model(*inputs).numpy()
        return vectors


def _load(setup: Setup) -> Engine:
    if not setup.calibration:
        raise CannotRunError("it quantizes anew in every process, which start does not measure")
    return InductorEngine(setup)


FORMS = (
    Form(
        "torch-inductor-int8",
        _load,
        ("torch", "transformers", "torchao"),
        ("torch",),
        "pip install torch torchao transformers",
        compiles=True,
    ),
)
