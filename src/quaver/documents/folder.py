"""All documents of a folder, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from quaver.documents.converter import Converter
from quaver.documents.passage import Document, Failure, Passage
from quaver.documents.read import read_document
from quaver.documents.scan import scan_folder
from quaver.documents.split import split
from quaver.documents.token_counter import TokenCounter
from quaver.errors import DocumentError


def folder_documents(folder: Path, failed: list[Failure]) -> Iterator[Document]:
    """Yield the documents of a folder.

    Args:
        folder: the folder.
        failed: gets the files that cannot be read.

    Yields:
        the documents; the source of each is its path relative to the folder.

    Raises:
        DocumentError: the folder cannot be read, or has no documents.
    """
    scan = scan_folder(folder)
    failed += scan.failures
    with Converter() as converter:
        for file in scan.files:
            source = file.relative_to(folder).as_posix()
            try:
                document = read_document(file, source=source, converter=converter)
            except (
                DocumentError,
                ImportError,
            ) as error:  # an extra that this file needs is missing
                reason = str(error).removeprefix(f"{file.name}: ").removeprefix(f"{source}: ")
                failed.append(Failure(source, reason))
                continue
            yield document


def read_passages(
    folder: str | Path, tokenizer: TokenCounter, max_tokens: int
) -> tuple[list[Passage], list[Failure]]:
    """Read a folder of documents, and split them into passages as an index does.

    Args:
        folder: the folder.
        tokenizer: the model's tokenizer, `Embedder.tokenizer`.
        max_tokens: tokens of a passage with its heading, without special tokens and prompt; at
            least 8.

    Returns:
        the passages, and the files that could not be read.

    Raises:
        DocumentError: the folder cannot be read, or has no documents.
        InputError: max_tokens is below 8.
    """
    failed: list[Failure] = []
    passages = [
        passage
        for document in folder_documents(Path(folder), failed)
        for passage in split(document, tokenizer, max_tokens)
    ]
    return passages, failed
