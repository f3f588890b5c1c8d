"""How transformers loads a quantized checkpoint of one of our types: unpacked into floats.

A quantized checkpoint of a plain type needs none of this: transformers unpacks it by itself. It
takes one number of bits and one size of group for a whole checkpoint, though. Factors are as wide
as their rank, which no usual size of group divides, so each of our weights says its own.
"""

from typing import Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from tlmtool.models.packing import unpacked
from tlmtool.models.quantized import OURS, check_installed
from tlmtool.models.rounding import PACKED, SCALE, SHAPE

WEIGHT = "weight"


@register_quantization_config(OURS)
class PackedConfig(QuantizationConfigMixin):
    """What config.json says of a quantized checkpoint of ours."""

    def __init__(self, bits: int = 8, embedding_bits: int = 8, **_: Any):
        self.quant_method: Any = OURS
        self.bits, self.embedding_bits, self.dequantize = bits, embedding_bits, True


@register_quantizer(OURS)
class PackedQuantizer(HfQuantizer):
    """Unpacks each weight into floats of the dtype that the model is loaded in."""

    # Without `weight` itself: it would be found in the middle of `weight.right.weight_packed`.
    serialized_names = {WEIGHT: [WEIGHT + end for end in (PACKED, SCALE, SHAPE)]}  # noqa: RUF012

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises MissingDependency, an ImportError, without the package that unpacks."""
        check_installed("a checkpoint that tlm has quantized")

    def get_load_operations(self) -> dict[str, Any]:
        """What makes a weight of the tensors in the files."""
        return {"dequantize": Unpack}

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Forget the unpacking: what is saved from now on are floats."""
        used = getattr(model, "_weight_conversions", None) or []
        model._weight_conversions = [each for each in used if not _unpacks(each)]
        return model

    def is_serializable(self) -> bool:
        """Never asked: the model holds floats once it is loaded."""
        return True

    @property
    def is_trainable(self) -> bool:
        """As any model of floats."""
        return True


def _unpacks(conversion: Any) -> bool:
    return any(isinstance(each, Unpack) for each in getattr(conversion, "operations", ()))


class Unpack(ConversionOps):
    """One weight of its packed numbers, its scales and its shape."""

    def __init__(self, hf_quantizer: PackedQuantizer):
        self.hf_quantizer = hf_quantizer

    def convert(self, input_dict: dict[str, Any], *_: Any, **given: Any) -> dict[str, Any]:
        """{name of the weight: its numbers}"""
        name: str = given["full_layer_name"]
        held: Tensor = given["model"].get_parameter(name)
        parts = {n: v[0] if isinstance(v, list) else v for n, v in input_dict.items()}
        packed, scale, shape = (parts[WEIGHT + end] for end in (PACKED, SCALE, SHAPE))
        if packed.is_meta:
            return {name: held.detach().to("meta")}
        numbers = unpacked(packed, scale, shape, held.shape[1]).numbers(held.dtype)
        return {name: numbers}


def refuse_saving(model: Any) -> None:
    """Raises ValueError for factors that bitsandbytes has quantized. transformers would look for
    their numbers under other names, and not find them."""
    if getattr(model, "_hf_peft_config_loaded", False):  # then only the adapter is saved
        return
    for path, module in model.named_modules():
        if type(module).__module__.startswith("bitsandbytes") and f".{WEIGHT}." in path:
            raise ValueError(
                f"{path} holds a factor that bitsandbytes has quantized, and transformers cannot "
                "re-load it: keep the checkpoint in floats and quantize it whenever it is loaded, "
                "or write one with `tlm quantize --bits 8`"
            )
