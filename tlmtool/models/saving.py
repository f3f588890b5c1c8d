"""Writes a checkpoint's folder, whole or not at all, with the files beside the weights."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, modeling_utils

from tlmtool.files.claims import claimed
from tlmtool.files.places import check_place, path_of
from tlmtool.files.writing import whole_folder
from tlmtool.models.beside import copy_side_files
from tlmtool.models.fitting import silenced
from tlmtool.models.folder import Folder, Name
from tlmtool.models.packing import Packed, write_packed
from tlmtool.models.replacing import check_out
from tlmtool.models.streaming import give_back, streamed
from tlmtool.models.weights import write_tensors


def save(
    model: PreTrainedModel,
    out: str | os.PathLike[str],
    *,
    source: Name | None = None,
    overwrite: bool = False,
    max_shard_size: str = "5GB",
    texts: Callable[[Path], dict[str, str]] | None = None,
    packed: Packed | None = None,
) -> Path:
    """Write a checkpoint's folder; a killed run leaves nothing at `out` that was not whole.

    `source` is the folder whose files beside the weights are copied: tokenizer, generation config,
    chat template, files of client libraries. `texts` makes more files of the new folder with its
    weights: {file name: content}. `packed`: the weights in few bits, as `pack` has rounded them.
    Raises Usage where `out` is taken or claimed by another run; `overwrite` replaces a checkpoint
    there, and nothing else.
    """
    out, folder = path_of(out), None if source is None else Folder.of(source)
    reads = [] if folder is None else [("source", folder.path)]
    if overwrite and reads and _same(reads[0][1], out) and streamed(model) is None:
        reads = []  # a folder may replace itself: all is written beside it
    check_place(out, reads)
    with claimed(out):
        check_out(out, overwrite)
        with whole_folder(out, lambda: check_out(out, overwrite)) as new:
            if folder is not None:
                copy_side_files(folder.path, folder.beside[0], new)
            with silenced(), _one_at_a_time(model):
                model.save_pretrained(new, max_shard_size=max_shard_size)
            if packed is not None:
                write_packed(new, packed)
            for name, content in (texts(new) if texts else {}).items():
                (new / name).write_text(content, encoding="utf-8")
    return out


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one folder."""
    return os.path.realpath(one) == os.path.realpath(other)


@contextmanager
def _one_at_a_time(model: PreTrainedModel) -> Iterator[None]:
    """Inside, a streamed model is written tensor by tensor; transformers reads a file's worth of
    them first. Names, files and bytes stay those of transformers."""
    if streamed(model) is None:
        yield
        return
    theirs = modeling_utils.safe_save_file

    def write(tensors: Any, file: Any, metadata: Any = None) -> None:
        write_tensors(tensors, Path(file), metadata, after=give_back)

    try:
        modeling_utils.safe_save_file = write  # type: ignore[assignment]
        yield
    finally:
        modeling_utils.safe_save_file = theirs
