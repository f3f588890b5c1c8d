"""Write a checkpoint folder: whole or not at all, with all that lay beside the weights."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from tlmtool.failure import Usage
from tlmtool.models.beside import copy_side_files
from tlmtool.models.folder import resolve


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse an `--out` that holds something, unless it may be replaced."""
    if out.exists() and not out.is_dir():
        raise Usage(f"--out {out} is a file, not a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise Usage(f"--out {out} is not empty; give --overwrite to replace it")
    if overwrite and out.is_dir() and any(out.iterdir()) and not (out / "config.json").exists():
        raise Usage(f"--out {out} holds no checkpoint (no config.json), so it is not replaced")


def write_whole(file: Path, text: str) -> None:
    """Write a text file: a killed run leaves the one that was there before."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A temporary sibling that becomes `out` when the block ends well, and else disappears."""
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".unfinished", dir=out.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        old = out.with_name(f".{out.name}.{os.getpid()}.replaced")
        if out.exists():
            out.rename(old)
        try:
            temporary.rename(out)
        except BaseException:
            if old.exists():
                old.rename(out)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
    `out` that was not whole.
    """
    out = Path(out)
    check_out(out, overwrite)
    with whole_folder(out) as folder:
        if source is not None:
            copy_side_files(resolve(os.fspath(source)), folder)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        for name, content in (texts(folder) if texts else {}).items():
            (folder / name).write_text(content, encoding="utf-8")
    return out
