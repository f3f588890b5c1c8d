"""Model types `tlm-<type>`: what makes `AutoModelForX.from_pretrained` work on our checkpoints.

Config classes are made at registration, model classes when the first config of a type is.
"""

import copy
from functools import lru_cache, partial

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tlmtool.models.architectures import ARCHITECTURES, PREFIX, base_type
from tlmtool.models.attending import converted, take_over
from tlmtool.models.factorized import Factorized
from tlmtool.models.surgery import merge as _merge_modules
from tlmtool.models.surgery import plan_from_dict, plan_of, plan_to_dict, skeleton
from tlmtool.models.ties import loose, loosen, untie
from tlmtool.models.vocabulary import check, resize

NAME = "Tlm"
SPREADS = ("initializer_range", "init_std", "initializer_factor")
WHOLE = ("FactorizedLinear", "FactorizedEmbedding")  # whose factors `device_map` keeps in one place
GUARD = "this is a tlm checkpoint: import tlmtool, then load it with an Auto class of transformers"


@lru_cache
def config_class(model_type: str) -> type:
    """The config class of `tlm-<type>`: the base type's, plus the key `tlm`.

    transformers' own `BertModel.from_pretrained` only warns that the type is not its own, and draws
    the weights that it misses. So `to_dict` spells the number that they are drawn with as "0.02
    (what to do)": a plain config refuses that, and shows it; ours reads the number in front.
    """
    base = CONFIG_MAPPING[base_type(model_type)]
    spread = next(name for name in SPREADS if hasattr(base, name))

    def __post_init__(self, **kwargs):
        base.__post_init__(self, **kwargs)
        if self.tlm is not None:
            plan_from_dict(self.tlm)
        register_models(type(self).model_type)

    def to_dict(self):
        return {**base.to_dict(self), spread: f"{getattr(self, spread)} ({GUARD})"}

    body = {
        "__module__": __name__,
        "__annotations__": {"tlm": dict | None},
        "to_dict": to_dict,
        "__post_init__": __post_init__,
        "model_type": PREFIX + base.model_type,
        "tlm": None,
    }
    made = type(NAME + base.__name__, (base,), body)
    init = made.__init__

    def __init__(self, **kwargs):
        if isinstance(spelled := kwargs.get(spread), str):
            kwargs[spread] = float(spelled.split()[0])
        init(self, **kwargs)

    made.__init__ = __init__
    globals()[made.__name__] = made  # so that it can be pickled
    return made


@lru_cache
def model_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The subclass of a transformers class that builds and saves the plan in its config."""

    def __init__(self, config, *args, **kwargs):
        base.__init__(self, config, *args, **kwargs)
        if config.tlm is not None:
            untie(self, config.tlm.get("untied", ()))
            skeleton(self, plan_from_dict(config.tlm))

    def save_pretrained(self, *args, **kwargs):
        self.config.tlm = _noted(self)
        return base.save_pretrained(self, *args, **kwargs)

    def resize_token_embeddings(self, new_num_tokens=None, *args, **kwargs):
        change = partial(base.resize_token_embeddings, self, new_num_tokens, *args, **kwargs)
        dense = not isinstance(self.get_input_embeddings(), Factorized)
        return change() if dense else resize(self, new_num_tokens, change)

    def set_input_embeddings(self, value):
        check(self.get_input_embeddings(), value)
        base.set_input_embeddings(self, value)

    def set_output_embeddings(self, new_embeddings):
        check(self.get_output_embeddings(), new_embeddings)
        base.set_output_embeddings(self, new_embeddings)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs):
        base._prepare_cache_for_generation(self, generation_config, model_kwargs, *args, **kwargs)
        if isinstance(cache := model_kwargs.get("past_key_values"), Cache):
            if take_over(self, cache):  # now, so that what is asked of the cache next reaches them
                generation_config.disable_compile = True  # a state is no tensor of a fixed place
            if getattr(generation_config, "is_assistant", False):
                cache.activate_past_recording()

    body = {
        "__module__": __name__,
        "__init__": __init__,
        "save_pretrained": save_pretrained,
        "resize_token_embeddings": resize_token_embeddings,
        "set_input_embeddings": set_input_embeddings,
        "set_output_embeddings": set_output_embeddings,
        "config_class": config_class(base.config_class.model_type),
        "_no_split_modules": [*(base._no_split_modules or []), *WHOLE],
    }
    if hasattr(base, _prepare_cache_for_generation.__name__):
        body[_prepare_cache_for_generation.__name__] = _prepare_cache_for_generation
    made = type(NAME + base.__name__, (base,), body)
    globals()[made.__name__] = made  # so that it can be pickled
    return made


@lru_cache
def register_models(model_type: str) -> None:
    """Give every Auto class that knows the base type our class of the same head."""
    ours = config_class(base_type(model_type))
    for name, own in heads_of(model_type).items():
        getattr(modeling_auto, name).register(ours, model_class(own), exist_ok=True)


def heads_of(model_type: str) -> dict[str, type[PreTrainedModel]]:
    """{Auto class: transformers' class for the base type}, of all that know it."""
    base, classes = CONFIG_MAPPING[base_type(model_type)], {}
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None) if isinstance(auto, type) else None
        found = mapping.get(base, None) if mapping is not None else None
        several = found if isinstance(found, (tuple, list)) else [found]
        own = next((c for c in several if getattr(c, "config_class", None) is base), None)
        if own is not None:  # some types have heads of another
            classes[name] = own
    return classes


def register() -> None:
    """Make transformers know every `tlm-<type>`."""
    for model_type in ARCHITECTURES:
        AutoConfig.register(PREFIX + model_type, config_class(model_type), exist_ok=True)


def adopt(model: PreTrainedModel) -> PreTrainedModel:
    """A transformers model that has been factorized becomes one of our types, in place; itself."""
    if not hasattr(model.config, "tlm"):
        register_models(model.config.model_type)
        model.__class__ = model_class(type(model))
        model.config.__class__ = config_class(model.config.model_type)
        with torch.device("meta"):  # transformers notes what a class can output as one is made
            type(model)(copy.deepcopy(model.config))
    model.config.tlm = _noted(model)
    return model


def _noted(model: PreTrainedModel) -> dict:
    """What `config.json` keeps of the live modules."""
    loosen(model)
    apart = {"untied": names} if (names := loose(model)) else {}
    return plan_to_dict(plan_of(model)) | apart


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """Factors -> dense, in place, and back to the plain transformers class; returns the model.

    With kernels in place of softmax attention it stays of our type: they have no dense form."""
    _merge_modules(model)
    if any(converted(model)):
        return adopt(model)
    for part in [m for m in model.modules() if isinstance(m, PreTrainedModel)]:
        for ours in (part, part.config):  # a part may be of our type too, or have a config that is
            if type(ours).__module__ == __name__:
                ours.__class__ = type(ours).__mro__[1]
        vars(part.config).pop("tlm", None)
    return model


register()
