"""Calibration text: every kind of source, which samples are taken, and sources that give none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from quaver.errors import CalibrationError, InputError
from quaver.quantization.calibration import calibration_texts

TEXTS = [f"text {i}, with a comma" for i in range(20)]


def _jsonl(path: Path, column: str) -> None:
    path.write_text("".join(json.dumps({"id": i, column: t}) + "\n" for i, t in enumerate(TEXTS)))


def _csv(path: Path, column: str) -> None:
    path.write_text(f"id,{column}\n" + "".join(f'{i},"{t}"\n' for i, t in enumerate(TEXTS)))


def _parquet(path: Path, column: str) -> None:
    table = {"id": list(range(len(TEXTS))), column: TEXTS}
    pyarrow.parquet.write_table(pyarrow.table(table), path)


WRITERS: dict[str, Callable[[Path, str], None]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize(("column", "named"), [("passage", False), ("notes", True)])
def test_a_file_with_columns(tmp_path: Path, ending: str, column: str, named: bool) -> None:
    path = tmp_path / f"texts.{ending}"
    WRITERS[ending](path, column)
    found = calibration_texts(f"{path}:{column}" if named else path, 20)
    assert list(found.texts) == TEXTS
    assert (found.name, found.found) == (path.name, 20)
    assert calibration_texts(path, 20, column).digest == found.digest


def test_lines_of_text(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, "", "  ", TEXTS[0]]))
    assert list(calibration_texts(tmp_path / "texts.txt", 20).texts) == TEXTS


@pytest.mark.parametrize("ending", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"texts.{ending}"
    text = {"txt": "one\ntwo\n", "jsonl": '{"text": "one"}\n"two"\n', "csv": "text\none\ntwo\n"}
    path.write_text(text[ending], encoding="utf-8-sig")
    assert calibration_texts(path, 2).texts == ("one", "two")


def test_a_folder_of_documents(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Wine\n\nRed.\n\n# Bread\n\nWhite.\n")
    (tmp_path / "a.txt").write_text("Water.\n")
    found = calibration_texts(tmp_path, 3)
    assert [text.split()[-1] for text in found.texts] == ["Water.", "Red.", "White."]
    assert found.name == tmp_path.name


@pytest.mark.slow
def test_a_broken_file_of_a_folder_is_passed_over_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 and no more")
    (tmp_path / "b.md").write_text("# Wine\n\nRed.\n\n# Bread\n\nWhite.\n")
    (tmp_path / "c.csv").write_bytes(b"gr\xf6\xdfe,1\n")
    found = calibration_texts(tmp_path, 2)
    assert found.texts == ("Red.", "White.")
    assert [failure.source for failure in found.failed] == ["a.pdf", "c.csv"]
    assert found.failed[0].reason.startswith("broken: ")
    with pytest.raises(
        CalibrationError, match=r"found 2 in .*unread: a\.pdf: broken.*and 1 more\)"
    ):
        calibration_texts(tmp_path, 3)
    (tmp_path / "b.md").unlink()
    with pytest.raises(CalibrationError, match=r"found 0 in .*unread: a\.pdf: broken"):
        calibration_texts(tmp_path, 1)


def test_samples_are_spread_evenly_over_what_is_different() -> None:
    found = calibration_texts([*TEXTS, *TEXTS], 4)
    assert found.texts == (TEXTS[0], TEXTS[5], TEXTS[10], TEXTS[15])
    assert found.found == 20
    assert found.digest != calibration_texts(TEXTS, 5).digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "asks for 4 different texts: found 0 in a.jsonl"),
        ("a.txt", b"one\ntwo\none\n", "asks for 4 different texts: found 2 in a.txt"),
        ("a.csv", b"", "a.csv has no column text or document.*its columns: none"),
        ("a.csv", b"x,y\n1,2\n", "name one of its columns: x, y"),
        ("a.jsonl", b'{"text": 5}\n', "line 1 of a.jsonl is int; name a column of texts"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', "line 2 must be a JSON object.*got list"),
        ("a.jsonl", b'{"text": "a"\n', "line 1 is not JSON"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
        ("a.txt", b"\x7fELF\xff\xfe", "must be UTF-8 text: byte 4 is not"),
        ("a.txt", b"one\0two\n", "line 1 has a NUL"),
        ("a.parquet", b"PAR1", "is not a readable Parquet"),
    ],
)
def test_files_that_give_no_text(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CalibrationError, match=message):
        calibration_texts(tmp_path / name, 4)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.exe").write_bytes(b"MZ")
    with pytest.raises(InputError, match=r"ends in .jsonl, .txt, .csv, .parquet: got a.exe"):
        calibration_texts(tmp_path / "a.exe", 4)


@pytest.mark.parametrize("ending", WRITERS)
def test_a_column_that_is_not_there(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"texts.{ending}"
    WRITERS[ending](path, "passage")
    with pytest.raises(CalibrationError, match="no column 'notes'; its columns: id, passage"):
        calibration_texts(f"{path}:notes", 4)


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_column_of_numbers(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"texts.{ending}"
    WRITERS[ending](path, "passage")
    with pytest.raises(CalibrationError, match=r"calibration needs text: .* is int"):
        calibration_texts(f"{path}:id", 4)


def test_a_table_is_no_list_of_texts() -> None:
    with pytest.raises(InputError, match="give one of its columns"):
        calibration_texts(pyarrow.table({"text": TEXTS}), 20)  # type: ignore[arg-type]


def test_a_text_file_has_no_columns(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("one\n")
    with pytest.raises(CalibrationError, match="no columns: got 'text'"):
        calibration_texts(f"{tmp_path}/texts.txt:text", 1)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CalibrationError, match="no calibration file or folder"):
        calibration_texts(tmp_path / "texts.jsonl", 4)
    with pytest.raises(CalibrationError, match="at least one document"):
        calibration_texts(tmp_path / "folder", 4)
