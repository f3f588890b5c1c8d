"""What a quantized checkpoint is, and which one to take in its place."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tlmtool.failure import NotLoadable
from tlmtool.models.front import front_matter

# Keys of config.json under which a checkpoint says how it was quantized.
KEYS = ("quantization_config", "compression_config")
NAMES = {  # {quant_method: its name in words}; any other is named as it is written
    "awq": "AWQ",
    "bitnet": "BitNet",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "fp8",
    "fp8": "fp8",
    "gptq": "GPTQ",
    "hqq": "HQQ",
    "mxfp4": "MXFP4",
}
BITS = ("bits", "w_bit", "nbits", "weight_bits")
# {end of the name of a tensor: how the checkpoint was quantized}, where config.json does not say so
PACKED = {
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".absmax": "4-bit bitsandbytes",
    ".SCB": "8-bit bitsandbytes",
    ".weight_scale_inv": "fp8",
}


def by_config(config: Mapping[str, Any]) -> str:
    """'GPTQ, 4 bits', '8-bit bitsandbytes': how a config says that its checkpoint was quantized;
    empty where it does not. The text model of a composite config may say it too."""
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, Mapping) else {})
    found = next((place[key] for place in places for key in KEYS if place.get(key)), None)
    if not isinstance(found, Mapping):
        return "" if found is None else str(found)[:40]
    method = str(found.get("quant_method") or "")
    loaded = found.get("load_in_8bit") or found.get("load_in_4bit")
    if not method and not loaded and {"load_in_8bit", "load_in_4bit"} & {*found}:
        return ""  # a config that says it is not quantized
    if method.startswith("bitsandbytes") or loaded:
        eight = found.get("load_in_8bit") or method.endswith("8bit")
        return f"{8 if eight else 4}-bit bitsandbytes"
    name = NAMES.get(method, method[:40] or "by an unnamed method")
    bits = next((found[key] for key in BITS if isinstance(found.get(key), int)), None)
    layout = found.get("format")
    more = f"{bits} bits" if bits else layout[:40] if isinstance(layout, str) else ""
    return f"{name}, {more}" if more else name


def by_tensors(names: Iterable[str]) -> str:
    """How the names of tensors show that a checkpoint was quantized; empty where none does."""
    return next(
        (f"{how}, by {n}" for n in names for end, how in PACKED.items() if n.endswith(end)), ""
    )


def refusal(folder: Path, how: str) -> NotLoadable:
    """The failure for a quantized checkpoint, with the one to take in its place."""
    base = front_matter(folder).get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    named = f" (its card names {base[:96]})" if isinstance(base, str) and base else ""
    return NotLoadable(
        f"{folder} is quantized already ({how}), and tlm works on weights in float32, bfloat16 or "
        f"float16: take the checkpoint that it was made from{named}"
    )
