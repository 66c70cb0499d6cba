"""The measured loss in the model card of a quantized folder."""

from __future__ import annotations

import json
from pathlib import Path

from quaver.errors import InputError
from quaver.evaluate.report import EvaluationReport
from quaver.evaluate.table import markdown_report
from quaver.quantization import LOSS_TABLE_MARKS
from quaver.system import written_whole

START, END = LOSS_TABLE_MARKS


def is_quantized_folder(folder: Path) -> bool:
    """Return whether a path is a local folder that `quaver quantize` wrote, its encoder in a subfolder or not."""
    return any(map(_is_quantized, (folder / "config.json", *folder.glob("*/config.json"))))


def _is_quantized(file: Path) -> bool:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "quantization_config" in config


def write_card(report: EvaluationReport, system: str, folder: Path) -> Path:
    """Write a model's loss into its model card.

    Args:
        report: the report.
        system: the model's name in the report.
        folder: the model's folder.

    Returns:
        the card, README.md.

    Raises:
        InputError: the card cannot be written.
    """
    card = folder / "README.md"
    write_between(card, markdown_report(report.only(system)))
    return card


def write_between(file: Path, text: str, *, start: str = START, end: str = END) -> None:
    """Put text between two marks of a Markdown file, or at its end if it has no marks.

    A new file replaces the old one in one step.

    Args:
        file: the file; made if it does not exist.
        text: replaces what is between the marks.
        start: the first mark.
        end: the second mark.

    Raises:
        InputError: a mark is missing or there twice, or the file cannot be written.
    """
    try:
        content = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from error
    counts = content.count(start), content.count(end)
    if counts == (0, 0):
        content = f"{content.rstrip()}\n\n{start}\n{end}\n".lstrip()
    elif counts != (1, 1) or content.index(start) > content.index(end):
        raise InputError(f"{file} must have {start} and then {end}, once each: correct the file")
    before, _, rest = content.partition(start)
    _, _, after = rest.partition(end)
    try:
        with written_whole(file) as partial:
            partial.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from error
