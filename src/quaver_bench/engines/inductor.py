"""torch inductor in int8: torchao's X86InductorQuantizer, static, compiled with freezing."""

from __future__ import annotations

import warnings
from typing import Any

from quaver_bench.engines import CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.pytorch import ProgramEngine, example, pooled_module


class InductorEngine(ProgramEngine):
    """Exported, calibrated, converted, and compiled for dynamic lengths."""

    def __init__(self, setup: Setup) -> None:
        """Quantize the model and set up the compiler, which compiles in the first calls.

        Args:
            setup: see `Setup`.

        Raises:
            CannotRunError: there are no texts to calibrate with, as in a process of `start`.
        """
        if not setup.calibration:
            raise CannotRunError(
                "it quantizes again in every process, which start does not measure"
            )
        import torch
        import torch._inductor.config as inductor
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        inductor.freezing = True
        axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                pooled_module(setup),
                example(),
                dynamic_shapes=(axes, axes),
            ).module()
            prepared = prepare_pt2e(exported, quantizer)
            for text in setup.calibration:
                ids = torch.from_numpy(text[None])
                pair = torch.cat([ids, ids])  # a batch of one would be specialized
                prepared(pair, torch.ones_like(pair))
            self.program = torch.compile(convert_pt2e(prepared), dynamic=True)
        self.settings = {"threads": torch.get_num_threads(), "quantizer": "X86InductorQuantizer"}

    def compute(self, inputs: Any) -> Vectors:
        """Run the program."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first calls compile
            return super().compute(inputs)


FORMS = (
    Form(
        "torch-inductor-int8",
        InductorEngine,
        ("torch", "transformers", "torchao"),
        ("torch",),
        "pip install torch torchao transformers",
        compiles=True,
    ),
)
