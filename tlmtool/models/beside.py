"""The files beside the weights of a checkpoint, which are copied to the new one."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import regular
from tlmtool.models.guarding import inside, modules

PICKLES = (".bin", ".pt", ".pth", ".pkl")
NOT_COPIED = (*PICKLES, ".safetensors", ".h5", ".msgpack", ".onnx", ".ot", ".gguf", ".py")
REWRITTEN = ("config.json", "README.md", "report.json", "report.png", "recipe.yaml")
OTHERS = ("onnx", "openvino")  # folders with the same model for other programs


def copy_side_files(source: Path, paths: list[Path], folder: Path) -> None:
    """Copy the files at these paths from one folder to another."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, folder / path)


def side_files(source: Path) -> tuple[list[Path], list[str]]:
    """(paths, below the folder, of the files that are copied; sentences on some others).

    The files that a new checkpoint writes itself are not copied, nor are weights, except for those
    of the parts of a sentence-transformers model (`modules.json`). Links out of the folder and
    files that are no ordinary ones are not copied. The pickle of a part is copied unopened.
    """
    parts = [Path(path) for path in modules(source)]
    travel: dict[Path, None] = {}
    told: list[str] = []
    for path in _walked(source, parts):
        of_part = any(path.is_relative_to(part) for part in parts)
        if not of_part and (path.parts[0] in OTHERS or path.suffix in NOT_COPIED):
            continue
        if not of_part and (path.name.endswith(".index.json") or str(path) in REWRITTEN):
            continue
        if why := _stays(source / path, source):
            told.append(f"{source / path} {why}: it does not travel")
            continue
        if path.suffix in PICKLES:
            told.append(f"{source / path} is a pickle: it travels unopened")
        travel[path] = None
    return list(travel), told


def _walked(source: Path, parts: list[Path]) -> Iterator[Path]:
    """Paths of files, and of links to folders, below a folder, without hidden ones. A part that is
    a link to a folder is walked."""
    for top in (source, *(source / part for part in parts if (source / part).is_symlink())):
        for place, folders, files in os.walk(top):
            folders[:] = sorted(name for name in folders if not _hidden(name))
            links = [name for name in folders if (Path(place) / name).is_symlink()]
            for name in sorted(files) + links:
                path = (Path(place) / name).relative_to(source)
                if not _hidden(name) and path not in parts:
                    yield path


def _hidden(name: str) -> bool:
    return name.startswith((".", "__"))


def _stays(file: Path, source: Path) -> str:
    """Why a file is not copied; empty where it is."""
    if not inside(file, source):
        return "is a link to outside of the folder"
    if file.is_dir() or not file.exists():
        return "is a link"
    try:
        regular(file)
    except NotLoadable:
        return "is no ordinary file"
    return ""
