"""Unpacks a GGUF file, once, into a folder of safetensors that every command can read.

The folder lies in the cache of tlm, under the name of the file and its sum.
"""

import copy
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tlmtool.failure import Failure, NotLoadable, blaming, first_line
from tlmtool.files.reading import regular
from tlmtool.models.gguf import (
    Origin,
    header,
    origin,
    read_once,
    unpacked_bytes,
    unpacked_dtype,
    unreadable,
)
from tlmtool.report.progress import Bars

KEPT = 7 * 86_400  # seconds that an unused folder stays; fewer unpack the same file more often
FORMAT = 1  # raise it when a change here makes folders of before wrong
ORIGIN = ".gguf.json"  # hidden, so that it does not travel to a new checkpoint
SLACK = 4 * 2**20  # numbers that a model may hold and its file does not: tables of positions


def cache() -> Path:
    """Where unpacked files are kept: `tlm/gguf` in the user's cache folder, XDG_CACHE_HOME."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return Path(home).expanduser() / "tlm" / "gguf"


def place_of(file: str, sha256: str) -> Path:
    """The folder for a file with this name and sum, whether it is there or not."""
    key = hashlib.sha256(f"{sha256} {FORMAT} {version('transformers')}".encode()).hexdigest()
    return cache() / f"{Path(file).stem}-{key[:12]}"


def is_there(folder: Path) -> bool:
    """Whether a folder of the cache is whole."""
    return (folder / ORIGIN).is_file()


def origin_of(folder: Path) -> Origin | None:
    """The file that a folder of the cache was unpacked from; None for any other folder."""
    if folder.parent != cache() or not is_there(folder):
        return None
    kept = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
    return Origin(**kept | {"notes": tuple(kept["notes"])})


def unpacked(parts: Sequence[Path], file: str, sha256: str | None = None, **more: Any) -> Path:
    """The folder of safetensors made of a GGUF file, which may lie in several parts, in order.

    `sha256` is the sum that the whole must have, and `more` are fields of its Origin. A file that
    was unpacked before is not unpacked again. Raises NotLoadable, MissingDependency.
    """
    digest = _sum(parts)
    if sha256 not in (None, digest):
        raise NotLoadable(
            f"{parts[0]} is not the published {file}: its packages are damaged, install them again"
        )
    target = place_of(file, digest)
    if is_there(target):
        os.utime(target)
        return target
    try:
        cache().mkdir(parents=True, exist_ok=True)
        _tidy(cache())
        with tempfile.TemporaryDirectory(prefix=".", dir=cache()) as work:
            made = _made(parts, file, digest, Path(work), more)
            try:
                os.rename(made, target)
            except OSError:  # another run was faster
                if not is_there(target):
                    raise
    except Failure:
        raise
    except OSError as error:
        raise NotLoadable(
            f"{file} is unpacked in {cache()}, which cannot be written ({first_line(error)}): set "
            "XDG_CACHE_HOME to another folder"
        ) from error
    return target


def _sum(parts: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for part in parts:
        with regular(part).open("rb") as opened:
            while block := opened.read(2**20):
                found.update(block)
    return found.hexdigest()


def _tidy(folder: Path) -> None:
    """Remove what has not been used for a week, and what killed runs have left."""
    for each in folder.iterdir():
        if time.time() - each.stat().st_mtime > KEPT:
            shutil.rmtree(each, ignore_errors=True)


def _made(parts: Sequence[Path], name: str, digest: str, work: Path, more: dict[str, Any]) -> Path:
    """The new folder, in `work`."""
    apart, new = work / "in", work / "new"
    apart.mkdir()
    whole = apart / name  # alone, since transformers would read other files beside it
    if len(parts) == 1:
        whole.symlink_to(parts[0].resolve())
    else:
        with whole.open("wb") as joined:
            for part in parts:
                with part.open("rb") as opened:
                    shutil.copyfileobj(opened, joined, 2**20)
    file = parts[0] if len(parts) == 1 else whole
    with Bars() as bars:
        progress = bars.of(f"unpacking {name}, once")
        progress(0, 1)  # a long vocabulary takes seconds before there is more to show
        reader, metadata = header(file)
        needed, free = unpacked_bytes(reader), shutil.disk_usage(work).free
        if needed > free:
            raise NotLoadable(
                f"{file} unpacks to {needed:,} bytes, and {cache()} has room for {free:,}: set "
                "XDG_CACHE_HOME to a folder with more"
            )
        found = replace(origin(file, reader, metadata, digest), **more)
        with read_once(reader, progress):
            notes = _convert(file, whole, reader, metadata, new)
        kept = asdict(replace(found, notes=tuple(notes)))
        (new / ORIGIN).write_text(json.dumps(kept), encoding="utf-8")
        return new


def _convert(
    file: Path, whole: Path, reader: Any, metadata: dict[str, Any], new: Path
) -> list[str]:
    """Write the model and its tokenizer as a folder; returns what to say of it. `file` is how
    messages name `whole`, which transformers reads."""
    from transformers import AutoTokenizer

    with blaming(unreadable(file, metadata)):
        model, info = _loaded(file, whole, reader)
    if missing := sorted(info["missing_keys"]):
        raise NotLoadable(
            f"{file} lacks {len(missing)} weights, such as {missing[0]}, of {type(model).__name__}"
        )
    notes = _left_out(file, reader, model)
    model.hf_quantizer = None  # it would refuse to save
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, key):
            delattr(model.config, key)
    model.save_pretrained(new)
    try:
        with blaming(f"the tokenizer in {file} cannot be read"):
            AutoTokenizer.from_pretrained(whole.parent, gguf_file=whole.name).save_pretrained(new)
    except NotLoadable as told:
        notes.append(str(told))
    return notes


def _loaded(file: Path, whole: Path, reader: Any) -> tuple[Any, dict[str, Any]]:
    """(the model, what transformers says of its keys)."""
    import torch
    from transformers import AutoConfig, GgufConfig

    from tlmtool.models.config import check_counts

    config = AutoConfig.from_pretrained(whole.parent, gguf_file=whole.name)
    check_counts(config.to_dict(), str(file))
    kind = _class(config)
    with torch.device("meta"):
        shell = kind(copy.deepcopy(config))
    _check_size(file, shell, reader)
    return kind.from_pretrained(
        whole.parent,
        config=config,
        gguf_file=whole.name,
        dtype=unpacked_dtype(reader),
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )


def _class(config: Any) -> Any:
    """The class for a config: the one that it names, or that of a language model."""
    import transformers
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    named = getattr(transformers, (config.architectures or [""])[0], None)
    autos = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModel)
    found = (auto._model_mapping.get(type(config), None) for auto in autos)
    return named or next(each for each in found if each is not None)


def _check_size(file: Path, shell: Any, reader: Any) -> None:
    """Raises NotLoadable for a model much larger than its file, before it takes memory."""
    size = sum(each.numel() for each in shell.parameters())
    there = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if size > 4 * there + SLACK:
        raise NotLoadable(
            f"{file} holds {there:,} numbers, but describes a model of {size:,}: it is damaged"
        )


def _left_out(file: Path, reader: Any, model: Any) -> list[str]:
    """A sentence on the numbers of a file that the model has no place for; none where it has."""
    there = sum(int(tensor.n_elements) for tensor in reader.tensors)
    taken = sum(each.numel() for each in model.parameters())
    if there == taken:
        return []
    return [f"{file} holds {there:,} numbers, and {taken:,} have a place in {type(model).__name__}"]
