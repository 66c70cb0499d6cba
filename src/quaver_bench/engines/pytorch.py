"""torch and transformers: float32, bf16 autocast, compiled; and the module that other engines convert."""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

from quaver_bench.engines import CannotRunError, Form, Setup, Vectors
from quaver_bench.engines.padded import PaddedEngine
from quaver_bench.inputs import PaddedBatch

PACKAGES = ("torch", "transformers")
RUNS_ON = ("torch", "transformers")
INSTALL = "pip install torch transformers"


@lru_cache(maxsize=1)
def load_encoder(folder: str, attention: str = "sdpa") -> Any:
    """Load a model in float32, in evaluation mode; the last one is kept.

    Args:
        folder: model folder.
        attention: transformers' name of the attention implementation.

    Returns:
        transformers' model without its pooling layer.

    Raises:
        CannotRunError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModel

    try:
        encoder = AutoModel.from_pretrained(
            folder, local_files_only=True, attn_implementation=attention
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise CannotRunError(f"transformers cannot load it: {first_line(error)}") from error
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = torch.nn.Identity()  # its output is not used
    # Not as an argument: transformers 5 calls it dtype, transformers 4 torch_dtype.
    return encoder.float().eval().requires_grad_(False)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def pooled_module(setup: Setup, *, attention: str = "sdpa", bf16: bool = False) -> Any:
    """Return a torch module from ids and mask (B, L) to unit vectors, for other engines to convert.

    Its method `tokens` returns the token vectors (B, L, H).

    Args:
        setup: see `Setup`.
        attention: see `load_encoder`.
        bf16: use weights in bfloat16; pooling stays in float32.

    Returns:
        the module, in evaluation mode.
    """
    import torch

    dtype = torch.bfloat16 if bf16 else torch.float32

    class Pooled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            encoder = load_encoder(str(setup.model.folder.transformer), attention)
            self.encoder = copy.deepcopy(encoder).to(dtype) if bf16 else encoder

        def tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            # The mask is passed as numbers added to the scores: with a mask of 0 and 1, tracing would fix
            # whether there is padding.
            added = 1.0 - attention_mask.to(dtype)[:, None, None, :]
            added = added * torch.finfo(dtype).min
            vectors = self.encoder(input_ids=input_ids, attention_mask=added).last_hidden_state
            return cast(torch.Tensor, vectors)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.tokens(input_ids, attention_mask)
            hidden = hidden.float() if bf16 else hidden
            return pool(hidden, attention_mask.to(torch.float32), setup.model.pooling)

    return Pooled().eval()


def pool(hidden: Any, mask: Any, pooling: str) -> Any:
    """Return unit vectors (B, H) of token vectors (B, L, H).

    Args:
        hidden: token vectors.
        mask: (B, L), 1 for a token; None without padding.
        pooling: "cls" or "mean".
    """
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif mask is None:
        pooled = hidden.mean(1)
    else:
        pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
    return pooled / pooled.norm(dim=1, keepdim=True)


def example() -> tuple[Any, Any]:
    """Return ids and mask of two texts to export with: one is padded, so that the export keeps the mask."""
    import torch

    mask = torch.ones((2, 8), dtype=torch.int64)
    mask[1, 5:] = 0
    return torch.ones((2, 8), dtype=torch.int64), mask


def export_onnx(module: Any, path: Path, *, output: str, max_length: int) -> None:
    """Export a module of ids and mask (B, L) as an ONNX file.

    Args:
        module: in evaluation mode.
        path: the file to write.
        output: name of the output.
        max_length: longest text, in tokens.
    """
    import torch

    axes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("length", max=max_length)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example(),
            path,
            input_names=["input_ids", "attention_mask"],
            output_names=[output],
            dynamic_shapes=(axes, axes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class ProgramEngine(PaddedEngine):
    """A program made from the model, which takes ids and mask (B, L) and returns unit vectors.

    Attributes:
        program: the program; set by the subclass.
    """

    program: Any

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        return torch.from_numpy(batch.ids), torch.from_numpy(batch.mask)

    def compute(self, inputs: Any) -> Vectors:
        """Run the program."""
        import torch

        with torch.no_grad():
            vectors: Vectors = self.program(*inputs).float().numpy()
        return vectors


class TorchEngine(PaddedEngine):
    """transformers as its users call it, without a mask if nothing is padded."""

    def __init__(self, setup: Setup, *, bf16: bool = False, compiled: bool = False) -> None:
        """Load the model.

        Args:
            setup: see `Setup`.
            bf16: autocast to bfloat16, the baseline of the published study.
            compiled: compile with torch.compile for dynamic lengths.
        """
        import torch

        super().__init__(setup)
        torch.set_num_threads(setup.threads)
        self._encoder = load_encoder(str(setup.model.folder.transformer))
        self.settings = {
            "threads": torch.get_num_threads(),
            "attention": self._encoder.config._attn_implementation,
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        self._pooling, self._bf16 = setup.model.pooling, bf16
        if compiled:
            self._encoder = torch.compile(self._encoder, dynamic=True)

    def inputs(self, batch: PaddedBatch) -> Any:
        """Make tensors."""
        import torch

        mask = None if batch.mask.all() else torch.from_numpy(batch.mask)
        return torch.from_numpy(batch.ids), mask

    def compute(self, inputs: Any) -> Vectors:
        """Encode and pool."""
        import torch

        ids, mask = inputs
        cast: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if self._bf16 else nullcontext()
        )
        with torch.inference_mode(), cast:
            hidden = self._encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        with torch.inference_mode():
            vectors: Vectors = pool(hidden.float(), mask, self._pooling).numpy()
        return vectors


FORMS = (
    Form("torch-float32", TorchEngine, PACKAGES, RUNS_ON, INSTALL),
    Form("torch-bf16", partial(TorchEngine, bf16=True), PACKAGES, RUNS_ON, INSTALL),
    Form(
        "torch-compile-bf16",
        partial(TorchEngine, bf16=True, compiled=True),
        PACKAGES,
        RUNS_ON,
        INSTALL,
        compiles=True,
    ),
)
