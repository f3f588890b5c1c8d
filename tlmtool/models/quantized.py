"""What a quantized checkpoint is, which ones tlm reads, and which to take in place of another."""

from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlmtool.failure import MissingDependency, NotLoadable
from tlmtool.models.front import front_matter

# Keys of config.json under which a checkpoint says how it was quantized.
KEYS = ("quantization_config", "compression_config")
OURS = "tlm"  # the quant_method of our own types, whose weights may have several widths
NAMES = {  # {quant_method: its name in words}; any other is named as it is written
    "awq": "AWQ",
    "bitnet": "BitNet",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "fp8",
    "fp8": "fp8",
    "gptq": "GPTQ",
    "hqq": "HQQ",
    OURS: "tlm",
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
    found = _said(config)
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
    bits = bits if bits is not None or not reads(config) else _bits_of_groups(found)
    layout = found.get("format")
    more = f"{bits} bits" if bits else layout[:40] if isinstance(layout, str) else ""
    return f"{name}, {more}" if more else name


def _bits_of_groups(found: Mapping[str, Any]) -> int | None:
    """The bits of the first group of a checkpoint that tlm wrote."""
    groups = found.get("config_groups")
    first = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = first.get("weights") if isinstance(first, Mapping) else None
    bits = weights.get("num_bits") if isinstance(weights, Mapping) else None
    return bits if isinstance(bits, int) else None


def reads(config: Mapping[str, Any]) -> bool:
    """Whether tlm reads a checkpoint that is quantized as its config says: one that `--bits` of tlm
    wrote, which is unpacked into floats when it is loaded."""
    found = _said(config)
    if not isinstance(found, Mapping) or found.get("dequantize") is not True:
        return False
    method = found.get("quant_method")
    return method == OURS or (
        method == "compressed-tensors" and found.get("format") == "pack-quantized"
    )


def _said(config: Mapping[str, Any]) -> Any:
    """What a config, or the text model of a composite one, says of a quantization."""
    inner = config.get("text_config")
    places = (config, inner if isinstance(inner, Mapping) else {})
    return next((place[key] for place in places for key in KEYS if place.get(key)), None)


def by_tensors(names: Iterable[str]) -> str:
    """How the names of tensors show that a checkpoint was quantized; empty where none does."""
    return next(
        (f"{how}, by {n}" for n in names for end, how in PACKED.items() if n.endswith(end)), ""
    )


def refusal(folder: Path, how: str, wanted: str = "") -> NotLoadable:
    """The failure for a quantized checkpoint, with the one to take in its place. `wanted`: the
    command that needs floats, where others read this checkpoint."""
    base = front_matter(folder).get("base_model")
    base = base[0] if isinstance(base, list) and base else base
    named = f" (its card names {base[:96]})" if isinstance(base, str) and base else ""
    worker = f"tlm {wanted}".rstrip()
    return NotLoadable(
        f"{folder} is quantized already ({how}), and {worker} works on weights in float32, "
        f"bfloat16 or float16: take the checkpoint that it was made from{named}"
    )


def check_installed(what: str) -> None:
    """Raises MissingDependency without the package that packs and unpacks rounded weights. `what`:
    needs it, in words."""
    if find_spec("compressed_tensors") is None:
        raise MissingDependency(f"{what} needs the bits extra: pip install 'tlmtool[bits]'")
