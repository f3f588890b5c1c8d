"""The model types `tlm-<type>`, with which `AutoModelForX.from_pretrained` loads our checkpoints.

Every type of transformers has one. Its config class is made when it is first asked for, and its
model classes with its first config.
"""

import copy
from functools import partial
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tlmtool.models import quantizer  # transformers then knows our bits
from tlmtool.models.architectures import NAME, PREFIX, base_type
from tlmtool.models.classes import heads_of
from tlmtool.models.exporters import known_to_exporters
from tlmtool.models.factorized import Factorized
from tlmtool.models.inheriting import same_names, same_tokenizer
from tlmtool.models.kernels import converted, one_text_a_row, take_over
from tlmtool.models.refusing import read, spelled
from tlmtool.models.remote import STAYS, auto_map, writing
from tlmtool.models.surgery import merge as merge_modules
from tlmtool.models.surgery import plan_from_dict, plan_of, plan_to_dict, skeleton
from tlmtool.models.ties import loose, loosen, untie
from tlmtool.models.vocabulary import check, resize

WHOLE = ("FactorizedLinear", "FactorizedEmbedding")  # `device_map` must not split their factors

# Classes made so far; each is made once, because transformers compares classes by identity.
_configs: dict[str, type[PreTrainedConfig]] = {}  # {base type: our config class}
_models: dict[tuple[Any, str], type[PreTrainedModel]] = {}  # {(their class, base type): ours}
_registered: set[str] = set()  # base types whose model classes the Auto classes know


class Later(type):
    """Stands for the config class of `tlm-<type>`, its name the type, until that is asked for.

    To make the config classes of all types would import several hundred modules.
    """

    def __getattr__(cls, name: str) -> Any:
        return getattr(config_class(cls.__name__), name)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return config_class(cls.__name__)(*args, **kwargs)


def register() -> None:
    """Make transformers know `tlm-<type>` for every type that it has."""
    for model_type in [name for name in CONFIG_MAPPING if not name.startswith(PREFIX)]:
        later: Any = Later(model_type, (), {})
        AutoConfig.register(PREFIX + model_type, later, exist_ok=True)


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """The config class of `tlm-<type>`: that of the base type, with one more key, `tlm`."""
    kind = base_type(model_type)
    if kind not in _configs:
        _configs[kind] = made = _config_class(CONFIG_MAPPING[kind], kind)
        AutoConfig.register(PREFIX + kind, made, exist_ok=True)
        same_tokenizer(kind, PREFIX + kind)
        same_names(kind, PREFIX + kind)
    return _configs[kind]


def _config_class(base: type[PreTrainedConfig], kind: str) -> type[PreTrainedConfig]:
    def __post_init__(self: Any, **kwargs: Any) -> None:
        base.__post_init__(self, **kwargs)
        if self.tlm is not None:
            plan_from_dict(self.tlm)
        register_models(kind)
        known_to_exporters(kind)

    def to_dict(self: Any) -> dict[str, Any]:
        kept = spelled(self, base.to_dict(self))
        return kept | {"auto_map": auto_map(kind, self.architectures)}

    body = {
        "__module__": __name__,
        "__annotations__": {"tlm": dict | None},
        "to_dict": to_dict,
        "to_json_file": writing(base, kind),
        "register_for_auto_class": STAYS,
        "__post_init__": __post_init__,
        "model_type": PREFIX + kind,
        "tlm": None,
    }
    made: Any = type(NAME + base.__name__, (base,), body)
    init = made.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **read(kwargs))

    made.__init__ = __init__
    return _findable(made, kind, base)


def _findable(made: Any, kind: str, base: type[PreTrainedConfig]) -> Any:
    """Give a class that was made a place in this module, where pickle looks for it. Another type
    may have a class of the same name."""
    if base.model_type != kind:
        made.__qualname__ = f"{made.__name__}_{kind.replace('-', '_')}"
    globals()[made.__qualname__] = made
    return made


def model_class(base: type[PreTrainedModel], model_type: str = "") -> type[PreTrainedModel]:
    """The subclass of a transformers class that builds and saves the plan in its config.

    `model_type`: of the config, where it is not the one that the class was written for.
    """
    written_for: Any = base.config_class
    key: Any = (base, base_type(model_type or written_for.model_type))
    if key not in _models:
        _models[key] = made = _model_class(*key)
        same_names(base.__name__, made.__name__)
    return _models[key]


def _model_class(base: Any, kind: str) -> type[PreTrainedModel]:
    def __init__(self: Any, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, config, *args, **kwargs)
        if (plan := getattr(config, "tlm", None)) is not None:
            untie(self, plan.get("untied", ()))
            skeleton(self, plan_from_dict(plan))

    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        quantizer.refuse_saving(self)
        self.config.tlm = _noted(self)
        return base.save_pretrained(self, *args, **kwargs)

    def resize_token_embeddings(
        self: Any, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        change = partial(base.resize_token_embeddings, self, new_num_tokens, *args, **kwargs)
        dense = not isinstance(self.get_input_embeddings(), Factorized)
        return change() if dense else resize(self, new_num_tokens, change)

    def set_input_embeddings(self: Any, value: nn.Module) -> None:
        check(self.get_input_embeddings(), value)
        base.set_input_embeddings(self, value)

    def set_output_embeddings(self: Any, new_embeddings: nn.Module) -> None:
        check(self.get_output_embeddings(), new_embeddings)
        base.set_output_embeddings(self, new_embeddings)

    def _initialize_missing_keys(self: Any, *args: Any, **kwargs: Any) -> None:
        base._initialize_missing_keys(self, *args, **kwargs)
        for part in (m for m in self.modules() if isinstance(m, PreTrainedModel)):
            if not list(part.parameters(recurse=False)):  # transformers passes over such a part,
                part._init_weights(part)  # which may fill buffers of its layers

    def _prepare_cache_for_generation(
        self: Any, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        base._prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs)
        if isinstance(cache := model_kwargs.get("past_key_values"), Cache):
            if take_over(self, cache):  # now, so that all that follows sees our layers
                generation_config.disable_compile = True  # a state changes its place in memory
            if getattr(generation_config, "is_assistant", False):
                cache.activate_past_recording()

    body: dict[str, Any] = {
        "__module__": __name__,
        "__init__": __init__,
        "register_for_auto_class": STAYS,
        "_initialize_missing_keys": _initialize_missing_keys,
        "save_pretrained": save_pretrained,
        "resize_token_embeddings": resize_token_embeddings,
        "set_input_embeddings": set_input_embeddings,
        "set_output_embeddings": set_output_embeddings,
        "config_class": config_class(kind),
        "_no_split_modules": [*(base._no_split_modules or []), *WHOLE],
    }
    if hasattr(base, _prepare_cache_for_generation.__name__):
        body[_prepare_cache_for_generation.__name__] = _prepare_cache_for_generation
        body["init_continuous_batching"] = one_text_a_row(base.init_continuous_batching)
    return _findable(type(NAME + base.__name__, (base,), body), kind, base.config_class)


def model_classes(model_type: str) -> dict[str, type[PreTrainedModel]]:
    """{Auto class: our class of the same head} of every Auto class that knows the base type."""
    kind = base_type(model_type)
    return {name: model_class(own, kind) for name, own in heads_of(kind).items()}


def register_models(model_type: str) -> None:
    """Give our classes to the Auto classes."""
    kind = base_type(model_type)
    if kind in _registered:
        return
    _registered.add(kind)
    for name, made in model_classes(kind).items():
        getattr(modeling_auto, name).register(config_class(kind), made, exist_ok=True)


def adopt(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a transformers model that holds factors or kernels into one of our types, in place."""
    if not hasattr(model.config, "tlm"):
        register_models(model.config.model_type)
        model.__class__ = model_class(type(model), model.config.model_type)
        model.config.__class__ = config_class(model.config.model_type)
        with torch.device("meta"):  # transformers notes the outputs of a class when one is made
            type(model)(copy.deepcopy(model.config))
        vars(model.config).pop("model_type", None)  # a config read from a file holds its type
    vars(model.config)["tlm"] = _noted(model)
    return model


def _noted(model: PreTrainedModel) -> dict[str, Any]:
    """What `config.json` keeps of the live modules."""
    loosen(model)
    apart = {"untied": names} if (names := loose(model)) else {}
    return plan_to_dict(plan_of(model)) | apart


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Replace factors by dense weights, in place, and return to the plain transformers class.

    A model with kernels in place of softmax attention keeps our type: kernels have no dense weight.
    """
    merge_modules(model)
    if any(converted(model)):
        return adopt(model)
    for part in [m for m in model.modules() if isinstance(m, PreTrainedModel)]:
        owned: Any
        for owned in (part, part.config):  # a part may be of our type, or only its config
            if type(owned).__module__ == __name__:
                owned.__class__ = type(owned).__mro__[1]
        for key in ("tlm", "model_type", "auto_map"):  # a config that was read holds its type
            vars(part.config).pop(key, None)
    return model


def __getattr__(name: str) -> Any:
    """A class that another process has named: in a pickled config, or in an adapter of peft."""
    theirs: Any = getattr(transformers, name[len(NAME) :], None) if name.startswith(NAME) else None
    if isinstance(theirs, type) and issubclass(theirs, PreTrainedModel | PreTrainedConfig):
        it: Any = theirs
        return model_class(it) if issubclass(it, PreTrainedModel) else config_class(it.model_type)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
