"""What may be opened in a checkpoint's folder: ordinary files inside it, of a plausible size."""

import json
import os
from fnmatch import fnmatch
from pathlib import Path

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular

# Patterns of the files that tlm or transformers may open in the folder itself. A file that matches
# none of them is not looked at, so a pattern that is missing here leads_out its files unchecked.
OPENED = (
    *("*.json", "*.model", "*.jinja", "*.bpe", "*.spm", "*.codes", "*.tiktoken", "*.safetensors"),
    *("vocab.txt", "merges.txt", "README.md"),
)
TEMPLATES = "additional_chat_templates"  # a folder of a tokenizer
MIB = 2**20
# The most bytes that are read of a file. Larger ones are refused; weights are never read whole.
CONFIG, OTHER = 4 * MIB, 128 * MIB


def inside(path: Path, folder: Path) -> bool:
    """Whether a path, links followed, lies in a folder.

    The files that a snapshot in the Hub cache links to count as inside: `models--x/blobs` for
    `models--x/snapshots/<revision>`.
    """
    try:
        place, root = path.resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name with a NUL
        return False
    homes = [root] + ([root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [])
    return any(place.is_relative_to(home) for home in homes)


def guard(folder: Path) -> None:
    """Raises NotLoadable where a file that would be opened is a link out of the folder, is no
    ordinary file, or is too large; also for an adapter, which needs the weights of another model.
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
        regular(file, _most(file.name))
    if (folder / "adapter_config.json").exists():
        raise NotLoadable(
            f"{folder} holds an adapter (adapter_config.json): merge it into its model first"
        )


def _most(name: str) -> int | None:
    """The most bytes that a file of this name may have; None where it has no bound."""
    if name.endswith(".safetensors"):
        return None
    return CONFIG if name == "config.json" else OTHER


def modules(folder: Path) -> list[str]:
    """The folders that the modules.json of a sentence-transformers model names, without the root.

    A file that holds no such list names none. Raises NotLoadable for a name that leads out of the
    folder.
    """
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
        if leads_out(path) or not inside(folder / path, folder):
            raise NotLoadable(f"{file} names {path!r}, which lies outside of the folder")
        found.append(path)
    return found


def leads_out(path: str) -> bool:
    """Whether a relative path, as it is written, can lead out of its folder."""
    return Path(path).is_absolute() or ".." in Path(path).parts
