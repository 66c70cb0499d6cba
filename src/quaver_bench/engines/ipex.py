"""Intel Extension for PyTorch 2.8, its last version: the system of the published study."""

from __future__ import annotations

import warnings
from functools import lru_cache, partial
from typing import Any

from quaver_bench.engines import CannotRunError, Form, Setup
from quaver_bench.engines.pytorch import ProgramEngine, first_line, load_encoder, pool

PACKAGES = ("intel_extension_for_pytorch", "torch", "transformers")
RUNS_ON = ("intel_extension_for_pytorch", "transformers")
INSTALL = "make .envs/ipex/made"


class IpexEngine(ProgramEngine):
    """`ipex.optimize` or static int8, traced to TorchScript and frozen."""

    def __init__(self, setup: Setup, kind: str) -> None:
        """Optimize and trace.

        Args:
            setup: see `Setup`.
            kind: "float32", "bf16" or "int8".

        Raises:
            CannotRunError: IPEX has no kernels for this on this CPU, or int8 has no texts to calibrate with,
                as in a process of `start`.
        """
        import torch

        if kind == "int8" and not setup.calibration:
            raise CannotRunError(
                "it quantizes again in every process, which start does not measure"
            )

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.program = _traced(setup, kind)
        except AssertionError as error:
            raise CannotRunError(first_line(error)) from error
        self.settings = {"threads": torch.get_num_threads(), **_level()}


@lru_cache(maxsize=1)
def _level() -> dict[str, str]:
    import intel_extension_for_pytorch as ipex

    return {"ipex_isa": str(ipex._C._get_current_isa_level())}


def _traced(setup: Setup, kind: str) -> Any:
    import intel_extension_for_pytorch as ipex
    import torch
    from intel_extension_for_pytorch.quantization import convert, prepare

    encoder = load_encoder(str(setup.model.folder.transformer), "eager")

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
            hidden = self.encoder(input_ids, attention_mask).last_hidden_state
            # In float32: a norm in bf16 leaves vectors up to 0.4 % longer or shorter than 1.
            return pool(hidden.float(), attention_mask.float(), setup.model.pooling)

    module = Pooled().eval()
    # A process of `start` has no calibration texts; the ids of the example do not matter.
    ids = torch.from_numpy(setup.calibration[0][None]) if setup.calibration else torch.ones(1, 8)
    ids = ids.to(torch.int64)
    example = (ids, torch.ones_like(ids))
    bf16 = torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16")
    with torch.no_grad(), bf16:
        if kind == "int8":
            mapping = ipex.quantization.default_static_qconfig_mapping
            prepared = prepare(module, mapping, example_inputs=example, inplace=False)
            for text in setup.calibration:
                tensor = torch.from_numpy(text[None])
                prepared(tensor, torch.ones_like(tensor))
            module = convert(prepared)
        else:
            dtype = torch.bfloat16 if kind == "bf16" else torch.float32
            module = ipex.optimize(module, dtype=dtype)
        traced = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False).eval())
        for _ in range(2):  # the program is optimized in its first runs
            traced(*example)
    return traced


FORMS = tuple(
    Form(
        f"ipex-{kind}",
        partial(IpexEngine, kind=kind),
        PACKAGES,
        RUNS_ON,
        INSTALL,
        "ipex",
        compiles=True,
    )
    for kind in ("float32", "bf16", "int8")
)
