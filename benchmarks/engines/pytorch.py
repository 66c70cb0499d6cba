"""torch and transformers in float32: the reference, and the model the other peers are made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BertModel

from engines import Run
from inputs import Case, PaddedBatch, pad
from models import Model


class PooledBert(torch.nn.Module):
    """BERT, mean of the tokens, unit length: what the other engines convert."""

    def __init__(self, bert: BertModel) -> None:
        """Wrap a model.

        Args:
            bert: in evaluation mode.
        """
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return unit vectors (B, H) of ids (B, L) and mask (B, L).

        The mask enters as the number that is added to the scores, because tracing would otherwise
        fix whether there is padding.
        """
        tokens = attention_mask.to(torch.float32)
        added = (1.0 - tokens[:, None, None, :]) * torch.finfo(torch.float32).min
        hidden = self.bert(input_ids=input_ids, attention_mask=added).last_hidden_state
        total = (hidden * tokens[:, :, None]).sum(1) / tokens.sum(1, keepdim=True)
        return total / total.norm(dim=1, keepdim=True)


def load_bert(model: Model) -> BertModel:
    """Load a model in float32.

    Args:
        model: the model.

    Returns:
        The encoder, in evaluation mode.
    """
    bert = BertModel.from_pretrained(model.folder, dtype=torch.float32, add_pooling_layer=False)
    return bert.eval()


class TorchEngine:
    """transformers as its users call it: no mask where nothing is padded."""

    def __init__(self, bert: BertModel, threads: int) -> None:
        """Use a loaded model.

        Args:
            bert: from `load_bert`.
            threads: of torch, for the whole process.
        """
        torch.set_num_threads(threads)
        self._bert = bert
        self.settings: dict[str, Any] = {
            "threads": torch.get_num_threads(),
            "attention": bert.config._attn_implementation,
            "capability": torch.backends.cpu.get_cpu_capability(),
            "batch": 32,
        }

    def prepare(self, case: Case) -> list[Run]:
        """Make padded tensors; see `engines.Engine`."""
        return [self._request(pad(texts, 32), len(texts)) for texts in case.requests]

    def _request(self, batches: list[PaddedBatch], texts: int) -> Run:
        inputs = [
            (
                batch.rows,
                torch.from_numpy(batch.ids),
                None if batch.mask.all() else torch.from_numpy(batch.mask),
            )
            for batch in batches
        ]
        size = self._bert.config.hidden_size

        @torch.inference_mode()
        def run() -> NDArray[np.float32]:
            vectors = np.empty((texts, size), np.float32)
            for rows, ids, mask in inputs:
                hidden = self._bert(input_ids=ids, attention_mask=mask).last_hidden_state
                if mask is None:
                    pooled = hidden.mean(1)
                else:
                    pooled = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
                vectors[rows] = torch.nn.functional.normalize(pooled).numpy()
            return vectors

        return run
