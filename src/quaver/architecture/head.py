"""What runs on pooled vectors: the head of a cross-encoder, as steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quaver.errors import ModelFolderError, UnsupportedArchitectureError

HeadActivation = Literal["none", "gelu", "gelu_tanh", "relu", "silu", "tanh"]


@dataclass(frozen=True)
class DenseStep:
    """y = activation(x @ weight.T + bias), on float32 (N, K).

    Attributes:
        name: of its tensors, without ".weight" and ".bias".
        outputs: O, the features it gives.
        activation: what its output goes through.
    """

    name: str
    outputs: int
    activation: HeadActivation


def classification_head(config: Mapping[str, Any], hidden: int) -> tuple[DenseStep, ...]:
    """Return the steps of a BERT with a classification head.

    Formula:
        classifier(tanh(pooler(h))), h the last state of the first token

    Args:
        config: config.json of the model.
        hidden: H.

    Raises:
        UnsupportedArchitectureError: config.json lists a class without a classification head.
        ModelFolderError: the number of labels is no positive number.
    """
    classes = config.get("architectures") or []
    if classes and not any("SequenceClassification" in str(name) for name in classes):
        raise UnsupportedArchitectureError(
            "a cross-encoder has a classification head (architectures: "
            f"...ForSequenceClassification): config.json lists {', '.join(map(str, classes))}; "
            "rank with BiEncoderRanker(Embedder.from_pretrained(...)) if it is an embedding model"
        )
    return (
        DenseStep("pooler.dense", hidden, "tanh"),
        DenseStep("classifier", label_count(config), "none"),
    )


def label_count(config: Mapping[str, Any]) -> int:
    """Count the labels as transformers does: id2label, else num_labels, else 2.

    Raises:
        ModelFolderError: that is no positive number.
    """
    names = config.get("id2label")
    count = len(names) if isinstance(names, Mapping) else config.get("num_labels", 2)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ModelFolderError(
            f"config.json must have id2label or num_labels, at least one label: got {count!r}"
        )
    return count
