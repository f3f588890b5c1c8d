"""Where a result comes from: the files of the model, and what it was made from."""

from pathlib import Path
from typing import Any

from tlmtool.files.reading import sha256
from tlmtool.models.architectures import ALIASES
from tlmtool.models.folder import Folder
from tlmtool.models.known import MINILM
from tlmtool.recipe.building import Recipe
from tlmtool.report.parts.model import Model


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
    base = front.get("base_model") if config.get("tlm") or folder.quantized else None
    here = Path(recipe.model).expanduser().is_dir()
    named = folder.path.resolve().name if here else ALIASES.get(recipe.model, recipe.model)
    named = MINILM if recipe.model == "minilm" else named
    if origin := folder.origin:
        named = origin.made_from or Path(origin.file).stem
    said = front.get("license")
    return Model(
        id=recipe.model,
        sha256=dict(folder.sums) if sums else None,
        base_model=base if isinstance(base, str) else named,
        license=tuple(said) if isinstance(said, list) else said,
        type=config["model_type"],
        gguf=None if origin is None else origin.to_dict(),
        **common,
    )
