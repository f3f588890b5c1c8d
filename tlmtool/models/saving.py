"""Write a checkpoint folder: whole or not at all, with all that lay beside the weights."""

import os
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedModel

from tlmtool.files.claims import claimed
from tlmtool.files.places import check_place, path_of
from tlmtool.files.writing import whole_folder
from tlmtool.models.beside import copy_side_files
from tlmtool.models.folder import resolve
from tlmtool.models.replacing import check_out


def save(
    model: PreTrainedModel,
    out: str | os.PathLike,
    *,
    source: str | os.PathLike | None = None,
    overwrite: bool = False,
    max_shard_size: str = "5GB",
    texts: Callable[[Path], dict[str, str]] | None = None,
) -> Path:
    """Write a checkpoint folder at once: weights, config, what lay beside them in `source`
    (tokenizer, generation config, chat template, a client library's own files), and what `texts`
    makes of the folder with its weights ({file name: content}). A killed run leaves nothing at
    `out` that was not whole. Raises Usage where `out` is taken, is claimed by another run, or may
    not be replaced: `overwrite` replaces a checkpoint, and no other file.
    """
    out, folder = path_of(out), None if source is None else resolve(os.fspath(source))
    check_place(out, [] if folder is None else [("source", folder)])
    with claimed(out):
        check_out(out, overwrite)
        with whole_folder(out, lambda: check_out(out, overwrite)) as new:
            if folder is not None:
                copy_side_files(folder, new)
            model.save_pretrained(new, max_shard_size=max_shard_size)
            for name, content in (texts(new) if texts else {}).items():
                (new / name).write_text(content, encoding="utf-8")
    return out
