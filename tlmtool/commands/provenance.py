"""Where a result comes from: the files of the model, and what it was made from."""

import json
import re
from pathlib import Path
from typing import Any

from tlmtool.files.kept import LARGEST
from tlmtool.files.reading import read_text, sha256
from tlmtool.models.architectures import ALIASES
from tlmtool.models.folder import Folder
from tlmtool.models.known import MINILM
from tlmtool.recipe.building import Recipe
from tlmtool.report.parts.model import Model

SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/[^/]+$")  # where the Hub's client keeps a model


def provenance(
    recipe: Recipe, folder: Folder, model: Any, out: Path | None, sums: bool = True
) -> Model:
    """The part `model` of a report: its files, its type, and the model that it was made from.
    Without `sums` no file of weights is read."""
    config, front = folder.config, folder.front
    common = {"class_": type(model).__name__, "out": None if out is None else str(out)}
    if recipe.model is None:
        files = [folder.path / name for name in ("config.json", "tokenizer.json")]
        sums = {f.name: sha256(f) for f in files if f.exists()}
        drawn = {"id": f"a new {folder.name}", "new": True, "type": model.config.model_type}
        return Model(**drawn, **common, sha256=sums)
    name, hub_id = _made_from(recipe, folder)
    origin = folder.origin
    if config.get("tlm") or folder.quantized:  # a result, which says what it was made from
        base = front.get("base_model")
        earlier = base if isinstance(base, str) else _reported(folder)
        name, hub_id = (earlier, base if _is_id(base) else None) if earlier else (name, hub_id)
    said = front.get("license")
    return Model(
        id=recipe.model,
        sha256=dict(folder.sums) if sums else None,
        base_model=name,
        hub_id=hub_id,
        license=tuple(said) if isinstance(said, list) else said,
        type=config["model_type"],
        gguf=None if origin is None else origin.to_dict(),
        **common,
    )


def _made_from(recipe: Recipe, folder: Folder) -> tuple[str, str | None]:
    """(what the model is called, its id on the Hub where that is known)."""
    if origin := folder.origin:
        return origin.made_from or Path(origin.file).stem, origin.made_from or None
    if recipe.model == "minilm":
        return MINILM, MINILM
    if not Path(recipe.model).expanduser().is_dir():
        found = ALIASES.get(recipe.model, recipe.model)
        return found, found
    if found := SNAPSHOT.search(folder.path.resolve().as_posix()):
        return (name := found[1].replace("--", "/")), name
    return folder.path.resolve().name, None


def _is_id(name: Any) -> bool:
    """Whether a name that a card gives is an id of the Hub; tlm 0.2 wrote names of folders too."""
    return isinstance(name, str) and ("/" in name or name in ALIASES or name in ALIASES.values())


def _reported(folder: Folder) -> str | None:
    """What the report beside a checkpoint says that it was made from."""
    try:
        found = json.loads(read_text(folder.path / "report.json", LARGEST))["model"]["base_model"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None
