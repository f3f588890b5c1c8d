"""Files with rounded weights: how they are packed after saving, and unpacked when they are read.

A weight `x.weight` is stored as `x.weight_packed`, whole numbers side by side in int32 along each
row, `x.weight_scale` and `x.weight_shape`. That is the layout "pack-quantized" of the package
compressed-tensors, which transformers and inference servers read.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from tlmtool.models.quantized import OURS, check_installed
from tlmtool.models.quantizing import HALF, Chosen, round_in_place
from tlmtool.models.rounding import PACKED, SCALE, SHAPE, Levels
from tlmtool.models.weights import INDEX, WHOLE

LAYOUT = "pack-quantized"


@dataclass(frozen=True)
class Packed:
    """The weights of a model that was rounded, as they are stored: {any of their names: tensors by
    what ends their names}, and what config.json says of it."""

    tensors: dict[str, dict[str, Tensor]]
    config: dict[str, Any] = field(default_factory=dict)


def pack(model: PreTrainedModel, chosen: Chosen) -> Packed:
    """Round the chosen weights of a model, in place, and pack them for its files.

    Raises MissingDependency without the package compressed-tensors.
    """
    check_installed("--bits")
    from compressed_tensors.compressors.pack_quantized import pack_to_int32

    tensors: dict[str, dict[str, Tensor]] = {}
    for name, width, found in round_in_place(model, chosen):
        made = {
            PACKED: pack_to_int32(found.whole.cpu(), width.bits),
            SCALE: found.scale.cpu(),
            SHAPE: torch.tensor(found.whole.shape),
        }
        tensors |= dict.fromkeys(chosen.names[name], made)
    for name in chosen.halves:
        weight = model.get_parameter(name)
        half = weight.detach().to(HALF)
        weight.data = half.to(weight.dtype)
        tensors |= {alias: {"": half.cpu()} for alias in chosen.names[name]}
    return Packed(tensors, _config(model, chosen))


def unpacked(packed: Tensor, scale: Tensor, shape: Tensor, width: int) -> Levels:
    """The levels of a packed weight. `width`: numbers in a row, of which the packed ones are made
    up in int32."""
    from compressed_tensors.compressors.pack_quantized import unpack_from_int32

    bits = next(bits for bits in (4, 8) if packed.shape[1] == -(-width * bits // 32))
    return Levels(unpack_from_int32(packed, bits, shape), scale)


def write_packed(folder: Path, packed: Packed) -> None:
    """Replace the weights in the files of a folder by packed ones, and say so in its config.json.

    One file is in memory at a time. A weight that the files hold under another name, because
    transformers stores it in another shape, stays there as floats, with the same numbers.
    """
    index = folder / INDEX
    kept = json.loads(index.read_text("utf-8")) if index.exists() else None
    homes: dict[str, str] = {}
    total = 0
    for name in sorted({*kept["weight_map"].values()}) if kept else [WHOLE]:
        tensors = _replaced(load_file(folder / name), packed)
        save_file(tensors, folder / name, {"format": "pt"})
        homes |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if kept:
        kept["weight_map"] = dict(sorted(homes.items()))
        kept["metadata"]["total_size"] = total
        index.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
    file = folder / "config.json"
    config = json.loads(file.read_text("utf-8")) | {"quantization_config": packed.config}
    file.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _replaced(tensors: dict[str, Tensor], packed: Packed) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = packed.tensors.get(name)
        if parts is None or _shape(parts) != tuple(tensor.shape):
            found[name] = tensor
        else:
            found |= {f"{name}{end}": part.contiguous() for end, part in parts.items()}
    return found


def _shape(parts: dict[str, Tensor]) -> tuple[int, ...]:
    return tuple(parts[SHAPE].tolist() if SHAPE in parts else parts[""].shape)


def _config(model: PreTrainedModel, chosen: Chosen) -> dict[str, Any]:
    """What config.json says: for transformers the layout of compressed-tensors, which it unpacks
    into floats; for one of our types the bits alone, since each weight says the rest."""
    if not chosen.plain:
        return {
            "quant_method": OURS,
            "bits": chosen.bits,
            "embedding_bits": chosen.embedding,
            "dequantize": True,
        }
    group = next(iter(chosen.widths.values())).group
    weights = {"num_bits": chosen.bits, "type": "int", "symmetric": True}
    weights |= {"strategy": "group", "group_size": group}
    targets = ["Linear", *(["Embedding"] if chosen.embedding == chosen.bits else [])]
    return {
        "quant_method": "compressed-tensors",
        "format": LAYOUT,
        "quantization_status": "compressed",
        "dequantize": True,
        "config_groups": {"group_0": {"targets": targets, "weights": weights, "format": LAYOUT}},
        "ignore": _ignored(model, chosen),
    }


def _ignored(model: PreTrainedModel, chosen: Chosen) -> list[str]:
    """Paths of the linears that are stored as floats, for programs that go by config.json."""
    aliases = {alias for name in chosen.widths for alias in chosen.names[name]}
    return sorted(
        path
        for path, module in model.named_modules()
        if type(module).__name__ == "Linear" and f"{path}.weight" not in aliases
    )
