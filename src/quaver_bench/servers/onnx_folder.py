"""Write a model as fastembed reads it: model.onnx in float32, and the tokenizer's files.

    python onnx_folder.py MODEL FOLDER

It needs torch, transformers and onnx, and imports neither Quaver nor this package, so the environment of
sentence-transformers can run it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
NAMES = ("input_ids", "attention_mask", "token_type_ids")


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pooling", default="", help="cls or mean; nothing for a cross-encoder")
    given = parser.parse_args()

    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

    kind: Any = AutoModel if given.pooling else AutoModelForSequenceClassification
    model = kind.from_pretrained(given.model, attn_implementation="eager").eval()
    config = AutoConfig.from_pretrained(given.model)
    given.folder.mkdir()
    for file in FILES:
        if (given.model / file).is_file():
            shutil.copy(given.model / file, given.folder / file)
    if not (
        given.folder / "special_tokens_map.json"
    ).exists():  # newer folders have it in another file
        (given.folder / "special_tokens_map.json").write_text(
            json.dumps({"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"})
        )

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            out = self.inner(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return out.last_hidden_state if given.pooling else out.logits

    ones = torch.ones((2, 8), dtype=torch.int64)
    torch.onnx.export(
        Plain().eval(),
        (ones, ones, ones),
        str(given.folder / "model.onnx"),
        input_names=list(NAMES),
        output_names=["output"],
        dynamic_axes={name: {0: "texts", 1: "length"} for name in NAMES},
        opset_version=17,
        dynamo=False,
    )
    facts = {"pooling": given.pooling, "hidden": config.hidden_size}
    (given.folder / "facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
