"""The classes that transformers has for a model type, by the Auto class that lists them."""

from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tlmtool.models.architectures import base_type


def heads_of(model_type: str) -> dict[str, type[PreTrainedModel]]:
    """{Auto class: transformers' class for the base type}, of all Auto classes that know it."""
    base: Any = CONFIG_MAPPING[base_type(model_type)]
    classes = {}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None) if isinstance(auto, type) else None
        found = mapping.get(base, None) if mapping is not None else None
        several = found if isinstance(found, (tuple, list)) else [found]
        own = next((c for c in several if _takes(c, base)), None)
        if own is not None:
            classes[name] = own
    return classes


def _takes(cls: Any, config: type[PreTrainedConfig]) -> bool:
    """Whether a class that an Auto class lists is made from the whole config of a type. Some types
    share the classes of another one; some list classes for a config inside theirs."""
    made_from = getattr(cls, "config_class", None)
    if made_from is None or made_from is config:
        return made_from is config
    return not config.sub_configs and not made_from.sub_configs
