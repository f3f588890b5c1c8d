"""Which weights are one: what the modules share, whatever a config says of it."""

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel


def parts(model: nn.Module) -> list[tuple[str, PreTrainedModel]]:
    """(prefix of its names, model) of a model and of those in it, each with a table of ties."""
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, PreTrainedModel)]
    return [(f"{path}." if path else "", part) for path, part in found]


def loosen(model: PreTrainedModel) -> None:
    """Ties that a config asks for and the modules do not hold, as of a head that lies in the file
    beside another table, leave the tables of transformers, which would tie them again. A config
    under which no tie is left says so; `loose` names the others."""
    _drop(model, {target for target, _ in apart(model)})


def loose(model: PreTrainedModel) -> list[str]:
    """Names, below the base model where they are in it, of weights that a config ties and the model
    does not."""
    return sorted(getattr(model, "_loose", ()))


def untie(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Weights of these names, as `loose` has them, get numbers of their own; others than those that
    the config ties are passed over. Also of a model that is being made, nothing of it tied yet."""
    asked, wanted = model.get_expanded_tied_weights_keys(all_submodels=True), set(names)
    found = {target for target in asked if _name(model, target) in wanted}
    for target in found:
        held = model.get_parameter(target)
        _set(model, target, nn.Parameter(held.detach().clone(), held.requires_grad))
    _drop(model, found)


def tie(model: PreTrainedModel, target: str, source: str) -> None:
    """The parameter `target` becomes `source`."""
    _set(model, target, model.get_parameter(source))


def apart(model: PreTrainedModel) -> list[tuple[str, str]]:
    """(target, source) of the parameters that the config ties and the modules do not."""
    found = []
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        try:
            one = model.get_parameter(target) is model.get_parameter(source)
        except AttributeError:  # of modules that this model lacks
            continue
        if not one:
            found.append((target, source))
    return found


def _drop(model: PreTrainedModel, found: set[str]) -> None:
    asked = model.get_expanded_tied_weights_keys(all_submodels=True)
    for prefix, part in parts(model) if found else ():
        own = part.get_expanded_tied_weights_keys()
        part._tied_weights_keys = {t: s for t, s in own.items() if prefix + t not in found}
        every = part.all_tied_weights_keys
        part.all_tied_weights_keys = {t: s for t, s in every.items() if prefix + t not in found}
        if len(found) == len(asked):
            part.config.tie_word_embeddings = False
    if found and len(found) < len(asked):
        model._loose = {*loose(model), *(_name(model, target) for target in found)}


def _name(model: PreTrainedModel, name: str) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _set(model: PreTrainedModel, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)
