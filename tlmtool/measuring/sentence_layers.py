"""The layers that may follow pooling in a sentence-transformers model, and their weights.

Each is made by a function (folder of the layer, width) -> (layer, what it is in words, width of its
output). Adding a row to LAYERS makes another kind known.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from tlmtool.failure import NotLoadable
from tlmtool.files.reading import read_text, regular
from tlmtool.models.guarding import inside

MIB = 2**20
SENTENCE = "sentence_embedding"
MOST = 2**16  # outputs of a dense layer; a folder that says more is refused
Layer = Callable[[Tensor], Tensor]


def read_json(file: Path, kind: type = dict) -> Any:
    """The JSON of a file, empty where there is none. Raises NotLoadable for one of another kind."""
    if not file.exists():
        return kind()
    try:
        found = json.loads(read_text(file, MIB))
    except (ValueError, OSError, RecursionError) as error:
        raise NotLoadable(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(found, kind) or (kind is list and any(type(x) is not dict for x in found)):
        raise NotLoadable(f"{file} holds no {'list of objects' if kind is list else 'object'}")
    return found


def _weights(place: Path, names: dict[str, str], layer: nn.Module) -> None:
    """Fill a layer with weights. `names`: {name in the module: name in the file}."""
    file = place / "model.safetensors"
    if not file.is_file():
        raise NotLoadable(f"{place} has no model.safetensors, which its part of the model needs")
    if not inside(file, place.parent):
        raise NotLoadable(f"{file} is a link to outside of the folder: put the file itself there")
    try:
        held = {k: v.float() for k, v in load_file(regular(file)).items()}
        layer.load_state_dict({k: held[name] for k, name in names.items()}, strict=True)
    except Exception as error:  # of safetensors, of a key or a size that is another
        why = " ".join(str(error).split())[:200]
        raise NotLoadable(f"{file} does not fit {place / 'config.json'}: {why}") from None
    layer.eval().requires_grad_(False)


def _on(layer: nn.Module) -> Layer:
    """The layer on the device of what it is given."""
    return lambda x: layer.to(x.device)(x)


def _dense(place: Path, width: int) -> tuple[Layer, str, int]:
    kept, file = read_json(place / "config.json"), place / "config.json"
    sizes = [kept.get(f"{k}_features") for k in ("in", "out")]
    name = kept.get("activation_function", "torch.nn.modules.activation.Tanh")
    of_torch = isinstance(name, str) and name.startswith("torch.nn.")
    kind = getattr(nn, name.rpartition(".")[2], None) if of_torch else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise NotLoadable(f"{file} names the activation {name}, which is none of torch.nn")
    _of_sentence(kept, file)
    if sizes[0] != width or not isinstance(sizes[1], int) or not 0 < sizes[1] <= MOST:
        raise NotLoadable(f"{file} has a layer from {sizes[0]} to {sizes[1]}: {width} come in")
    layer = nn.Linear(*sizes, bias=bool(kept.get("bias", True)))
    _weights(place, {key: f"linear.{key}" for key, _ in layer.named_parameters()}, layer)
    dense, active = _on(layer), _on(kind())
    said = f"a dense layer {sizes[0]} to {sizes[1]} ({kind.__name__})"
    if not kept.get("use_residual"):
        return lambda x: active(dense(x)), said, sizes[1]
    rest = nn.Identity()
    if sizes[0] != sizes[1]:
        rest = nn.Linear(*sizes, bias=False)
        _weights(place, {"weight": "residual.weight"}, rest)
    past = _on(rest)
    return lambda x: active(dense(x)) + past(x), f"{said} beside a residual", sizes[1]


def _norm(place: Path, width: int) -> tuple[Layer, str, int]:
    found = read_json(place / "config.json").get("dimension")
    if found != width:
        raise NotLoadable(f"{place / 'config.json'} has dimension {found}: {width} come in")
    layer = nn.LayerNorm(width)
    _weights(place, {key: f"norm.{key}" for key, _ in layer.named_parameters()}, layer)
    return _on(layer), "a layer norm", width


def _normalize(place: Path, width: int) -> tuple[Layer, str, int]:
    _of_sentence(read_json(place / "config.json"), place / "config.json")
    return unit, "normalized", width


def _of_sentence(kept: dict[str, Any], file: Path) -> None:
    """Raises NotLoadable for a layer that works on something else than the vector of a text."""
    names = [kept.get(f"module_{k}_name") or SENTENCE for k in ("input", "output")]
    if other := next((name for name in names if name != SENTENCE), None):
        raise NotLoadable(f"{file} works on {other}: tlm follows what works on {SENTENCE}")


def unit(x: Tensor) -> Tensor:
    """Vectors (B, F) of length 1."""
    return normalize(x, dim=-1)


# {kind in modules.json: function}
LAYERS = {"Dense": _dense, "LayerNorm": _norm, "Normalize": _normalize}
