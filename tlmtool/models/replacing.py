"""Which folders `--overwrite` may replace: those that hold only what tlm, transformers or
sentence-transformers wrote."""

import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from tlmtool.failure import NotLoadable, Usage
from tlmtool.files.reading import read_text
from tlmtool.models.guarding import CONFIG, MIB, TEMPLATES, modules

Foreign = Callable[[Path], str | None]  # a folder -> what it holds that must not be lost
LARGEST = 64 * MIB  # the most bytes of a report whose list of files counts
# Names that a checkpoint may hold. A name that is missing here keeps a folder from replacement.
NAMES = re.compile(
    r"""
    (model|pytorch_model|tf_model|flax_model)(-\d+-of-\d+)?\.(safetensors|bin|h5|msgpack)
    | (model\.safetensors|pytorch_model\.bin|tf_model\.h5|flax_model\.msgpack)\.index\.json
    | (config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json
    | (vocab|source_vocab|target_vocab|preprocessor_config|processor_config)\.json
    | vocab\.txt | merges\.txt | bpe\.codes | dict\.txt | chat_template\.(jinja|json)
    | (spiece|tokenizer|sentencepiece\.bpe|spm|sentencepiece|source|target)\.(model|spm|bpe)
    | (modules|sentence_bert_config|config_sentence_transformers)\.json
    | (configuration|modeling)_tlm\.py
    | (report\.(json|png)|recipe\.yaml|README\.md|LICENSE(\.txt|\.md)?)
    | training_args\.bin | trainer_state\.json | (optimizer|scheduler|scaler)\.pt
    | rng_state(_\d+)?\.pth
    """,
    re.VERBOSE,
)


def check_out(out: Path, overwrite: bool, foreign: Foreign | None = None) -> None:
    """Raises Usage for an `--out` that is a file, or a folder with files that may not be replaced.

    `foreign` is a function from a folder to what it holds that must not be lost; None for nothing.
    By default that is what does not belong to a checkpoint.
    """
    if os.path.lexists(out) and out.exists() and not out.is_dir():
        raise Usage(f"--out {out} is a file, not a folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise Usage(f"--out {out} is not empty; give --overwrite to replace it")
    if found := (foreign or foreign_to_checkpoint)(out):
        raise Usage(f"--out {out} holds {found}, so it is not replaced: give another --out")


def foreign_to_checkpoint(folder: Path) -> str | None:
    """What a folder holds that does not belong to a checkpoint; None where it may be replaced.

    The files that its report lists belong to it. So do the names that transformers, tokenizers and
    sentence-transformers write, the state of a Trainer included. Links never belong.
    """
    try:
        parts = [PurePosixPath(part).as_posix() for part in modules(folder)]
    except NotLoadable:
        parts = []
    listed, places = _listed(folder), {".", *parts}

    def known(path: str) -> bool:
        parent, name = os.path.split(path)
        ours = (parent or ".") in places and NAMES.fullmatch(name) is not None
        return path in listed or ours or (parent == TEMPLATES and name.endswith(".jinja"))

    found = first_foreign(folder, known, [*listed, *(f"{part}/x" for part in (*parts, TEMPLATES))])
    if not _is_config(folder / "config.json"):
        lacking = "no checkpoint (no config.json with a model_type)"
        return f"{lacking}, but {found}" if found else lacking
    return f"{found}, which neither tlm nor transformers wrote" if found else None


def foreign_to_export(folder: Path) -> str | None:
    """What a folder holds that its report does not list; None where it may be replaced."""
    if not (listed := _listed(folder)):
        return "no export (no report.json that lists its files)"
    found = first_foreign(folder, listed.__contains__, listed)
    return f"{found}, which is no file of an export" if found else None


def first_foreign(
    folder: Path, known: Callable[[str], bool], within: Iterable[str] = ()
) -> str | None:
    """The first path in a folder that is neither an ordinary file with a known path nor a folder
    above one of `within`. The search stops there."""
    folders = {str(above) for path in within for above in PurePosixPath(path).parents}
    waiting = [""]
    while waiting:
        place = waiting.pop()
        with os.scandir(folder / place) as entries:
            for entry in entries:
                path = f"{place}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if path not in folders:
                        return f"{path}/"
                    waiting.append(f"{path}/")
                elif not entry.is_file(follow_symlinks=False) or not known(path):
                    return path
    return None


def _listed(folder: Path) -> set[str]:
    """The files that a report of tlm in a folder lists."""
    try:
        report = json.loads(read_text(folder / "report.json", LARGEST))
        files = report["files"] if isinstance(report["schema_version"], int | str) else []
        return {each for each in files if isinstance(each, str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def _is_config(file: Path) -> bool:
    try:
        found = json.loads(read_text(file, CONFIG))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("model_type"), str)
