"""Tied weights: which parameters the modules of a model share, whatever its config says."""

from collections.abc import Iterable, Mapping

from torch import nn
from transformers import PreTrainedModel

TABLES = ("_tied_weights_keys", "all_tied_weights_keys")  # where transformers keeps its ties
DENSE = "_dense_ties"  # where a model with a factorized embedding keeps those of its dense modules

Ties = dict[str, str]  # {target: source}, names of parameters


def parts(model: nn.Module) -> list[tuple[str, PreTrainedModel]]:
    """(prefix, part) of a model and of every transformers model inside it. Each part has a table of
    tied weights; the prefix stands before the names in that table."""
    found = [(p, m) for p, m in model.named_modules() if isinstance(m, PreTrainedModel)]
    return [(f"{path}." if path else "", part) for path, part in found]


def loosen(model: PreTrainedModel) -> None:
    """Remove ties that the config asks for and the modules do not hold.

    An example is a head that is stored next to a different embedding table. transformers would tie
    the two again, so the tie leaves its tables. If no tie is left, the config says so; otherwise
    `loose` names the parameters.
    """
    _drop(model, {target for target, _ in apart(model)})


def loose(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that the config ties and the model does not. Names inside the base
    model are relative to it."""
    return sorted(getattr(model, "_loose", ()))


def untie(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Give the parameters with these names, as `loose` returns them, numbers of their own.

    Names that the config does not tie are ignored. The model may still be under construction, with
    nothing tied yet.
    """
    asked, wanted = model.get_expanded_tied_weights_keys(all_submodels=True), set(names)
    found = {target for target in asked if _name(model, target) in wanted}
    for target in found:
        held = model.get_parameter(target)
        _set(model, target, nn.Parameter(held.detach().clone(), held.requires_grad))
    _drop(model, found)


def tie(model: PreTrainedModel, target: str, source: str) -> None:
    """Make the parameter `target` the same object as `source`."""
    _set(model, target, model.get_parameter(source))


def apart(model: PreTrainedModel) -> list[tuple[str, str]]:
    """(target, source) of the parameters that the config ties and the modules do not."""
    found = []
    for target, source in model.get_expanded_tied_weights_keys(all_submodels=True).items():
        try:
            one = model.get_parameter(target) is model.get_parameter(source)
        except AttributeError:  # this model lacks one of the two modules
            continue
        if not one:
            found.append((target, source))
    return found


def kept_ties(part: PreTrainedModel) -> dict[str, Ties | None]:
    """{table of transformers: the ties of the dense modules}, kept from before `rename`."""
    return vars(part).get(DENSE, {})


def dense_ties(model: PreTrainedModel) -> Ties:
    """The ties among the dense modules, also after they have become factorized."""
    return (kept_ties(model) or vars(model)).get("all_tied_weights_keys") or {}


def rename(model: PreTrainedModel, renamed: Mapping[str, list[str]]) -> None:
    """Enter the new names of tied parameters in the tables of transformers, which saving and
    loading read. `renamed`: {name: names of the factors in its place}."""
    for dot, part in parts(model):
        if not kept_ties(part):
            vars(part)[DENSE] = {table: getattr(part, table, None) for table in TABLES}
        for table, ties in kept_ties(part).items():
            names: Ties = {}
            for target, source in (ties or {}).items():
                targets = renamed.get(dot + target, [dot + target])
                sources = renamed.get(dot + source, [dot + source])
                if len(targets) == len(sources):  # else this model does not use the tie
                    pairs = zip(targets, sources, strict=True)
                    names |= {t.removeprefix(dot): s.removeprefix(dot) for t, s in pairs}
            setattr(part, table, names)


def restore(model: PreTrainedModel) -> None:
    """Undo `rename`: the modules are dense again."""
    for _, part in parts(model):
        vars(part).update(vars(part).pop(DENSE, {}))


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
        names = {*loose(model), *(_name(model, target) for target in found)}
        vars(model)["_loose"] = names


def _name(model: PreTrainedModel, name: str) -> str:
    return name.removeprefix(f"{model.base_model_prefix}.")


def _set(model: PreTrainedModel, name: str, parameter: nn.Parameter) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, parameter)
