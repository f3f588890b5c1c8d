"""Walks a plan and replaces dense modules by factorized ones, and the inverse of that."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from tlmtool import attention
from tlmtool.attention import Attention
from tlmtool.decompositions import Decomposition, from_dict
from tlmtool.models.attending import attend
from tlmtool.models.factorized import (
    Factorized,
    FactorizedEmbedding,
    FactorizedLinear,
    dense_weight,
    rescale,
    set_weight,
    shape,
    weight_of,
)
from tlmtool.models.holding import first_of
from tlmtool.models.kernels import converted
from tlmtool.models.roles import ATTENTION, TABLES, roles_of
from tlmtool.models.ties import dense_ties, loosen, rename, restore

Plan = dict[str, Decomposition | Attention]  # {site: decomposition, attention module: kernel}
VERSION = 1  # of the plan in config.json; raise it when an older tlm would misread a new plan


def sites(model: PreTrainedModel) -> dict[str, str]:
    """{site: role}, in the model's order."""
    return dict(roles_of(model).of)


def head_count(model: PreTrainedModel, site: str = "", role: str = "") -> int | None:
    """H of the attention that a site belongs to, of keys for its key or value; None where the
    config does not say."""
    config: Any = model.config.get_text_config()
    names = ["num_attention_heads"]
    if "decoder" in site.split("."):
        names.insert(0, "decoder_attention_heads")
    if role in ("key", "value"):
        names.insert(0, "num_key_value_heads")
    found = (getattr(config, name, None) for name in names)
    return next((heads for heads in found if isinstance(heads, int) and heads), None)


def modes(model: PreTrainedModel, site: str, role: str) -> tuple[int, int] | None:
    """(H, D), the heads and width into which O of an attention projection splits; None for other
    roles, and where O does not split evenly. The heads of a qkv are those of all three."""
    heads = head_count(model, site, role) if role in ATTENTION else None
    if heads is None:
        return None
    o, i = shape(model.base_model.get_submodule(site))
    if role == "qkv":  # under grouped queries it is not 3 H heads wide
        width = getattr(model.config.get_text_config(), "head_dim", None) or i // heads
        heads = o // width
    return (heads, o // heads) if heads and o % heads == 0 else None


def factorize(
    model: PreTrainedModel,
    plan: Plan,
    metrics: dict[str, Tensor] | None = None,
    output_metrics: dict[str, Tensor] | None = None,
) -> None:
    """Replace dense modules by factors, in place, at the sites of the plan. On the meta device it
    sets sizes only.

    `metrics`: {site: input covariance (I, I) or (I,)}, for an embedding the frequency of each row
    (V,). `output_metrics`: {site: weight of output errors (O, O)}, for decompositions that take
    one. Modules that share the weight of an embedding are replaced with it. Attention modules in
    the plan change to their kernels first.
    """
    loosen(model)
    _factorize(model, plan, metrics or {}, output_metrics or {})


def _factorize(
    model: PreTrainedModel,
    plan: Plan,
    metrics: dict[str, Tensor],
    output_metrics: dict[str, Tensor],
) -> None:
    base = model.base_model
    attend(model, {path: kernel for path, kernel in plan.items() if isinstance(kernel, Attention)})
    for site, decomposition in plan.items():
        if isinstance(decomposition, Attention):
            continue
        dense = base.get_submodule(site)
        if isinstance(dense, TABLES) and decomposition.name != "svd":
            raise ValueError(f"{site}: an embedding takes svd, not {decomposition.name}")
        try:
            factors = _factors(dense, decomposition, metrics.get(site), output_metrics.get(site))
        except ValueError as error:
            raise ValueError(f"{site}: {error}") from None
        hold(model, site, decomposition, factors)


def _factors(
    dense: nn.Module, decomposition: Decomposition, metric: Tensor | None, output: Tensor | None
) -> dict[str, Tensor]:
    """The factors of a dense module. A table (V, E) is decomposed as its transpose, because its
    metric weighs rows."""
    weight = dense_weight(dense)
    if weight.is_meta:
        sizes = decomposition.shapes(weight.shape[0], weight.shape[1])
        return {k: weight.new_empty(s) for k, s in sizes.items()}
    if not isinstance(dense, TABLES):
        return decomposition.decompose(weight, metric, output)
    flipped = decomposition.decompose(weight.T, metric, output)
    left, right = flipped["right"].T.contiguous(), flipped["left"].T.contiguous()
    return {"left": left, "right": right}


def hold(
    model: PreTrainedModel, site: str, decomposition: Decomposition, factors: dict[str, Tensor]
) -> None:
    """Replace the linear or the embedding at a site by these factors, in place; of an embedding
    also the modules that share its weight."""
    dense = model.base_model.get_submodule(site)
    if isinstance(dense, TABLES):
        _factorize_tied(model, below(model, site), decomposition, factors)
    else:
        replace_module(model.base_model, dense, FactorizedLinear(decomposition, dense, factors))


def let_go(model: PreTrainedModel, site: str) -> nn.Module:
    """Replace the factorized linear at a site by its dense module, in place; returns that."""
    module = model.base_model.get_submodule(site)
    assert isinstance(module, Factorized)
    dense, weight = module.dense, module.dense_weight()
    set_weight(dense.to(weight.dtype), weight)
    rescale(dense)
    weight_of(dense).requires_grad_(first_of(module).requires_grad)
    dense.register_parameter("bias", module.dense_bias())
    replace_module(model.base_model, module, dense.train(module.training))
    return dense


def replace_module(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, everywhere: some families share layers."""
    for path in [p for p, m in root.named_modules(remove_duplicate=False) if m is old]:
        root.set_submodule(path, new)


def skeleton(model: PreTrainedModel, plan: Plan) -> None:
    """Give an empty model the modules of the plan, ready for their weights.

    Sites that the model lacks are passed over: some heads leave out a decoder. So are sites that
    are factorized already: some heads build their base model by its own Auto class.
    """
    done = {path for path, _ in converted(model.base_model)}
    done |= {path for path, _ in factorized(model.base_model)}
    there = {path for path, _ in model.base_model.named_modules()} - done
    _factorize(model, {site: d for site, d in plan.items() if site in there}, {}, {})


def merge(model: PreTrainedModel) -> None:
    """Replace factors by dense weights, in place: the inverse of `factorize`. Each weight is
    rebuilt in float64."""
    tables: dict[int, nn.Parameter] = {}  # a table that several modules share is rebuilt once
    for _, module in list(factorized(model)):
        first, dense = first_of(module), module.dense
        if id(first) not in tables:
            set_weight(dense.to(first.dtype), module.dense_weight())
            tables[id(first)] = weight_of(dense)
            tables[id(first)].requires_grad_(first.requires_grad)
        dense.weight = tables[id(first)]
        rescale(dense)
        if (bias := module.dense_bias()) is not None:
            dense.bias = bias
        replace_module(model, module, dense.train(module.training))
    restore(model)


def factorized(model: nn.Module) -> Iterator[tuple[str, Factorized]]:
    """(path, module) of every factorized module."""
    return ((p, m) for p, m in model.named_modules() if isinstance(m, Factorized))


def plan_of(model: PreTrainedModel) -> Plan:
    """The plan of a model, read from its live modules."""
    base = model.base_model
    plan: Plan = {path: module.mixing for path, module in converted(base)}
    tables: set[int] = set()  # of modules that share a table the first is the site
    for site, module in factorized(base):
        if (held := id(first_of(module))) not in tables:
            plan[site.removesuffix(".base_layer")] = module.decomposition  # where LoRA sits on it
        tables.add(held)
    return plan


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """The plan as `config.json` keeps it: sites with one decomposition or kernel are grouped."""
    groups: dict[Decomposition | Attention, list[str]] = {}
    for site, entry in plan.items():
        groups.setdefault(entry, []).append(site)
    kept: dict[str, Any] = {"version": VERSION, "plan": [], "attention": []}
    for entry, held in groups.items():
        if isinstance(entry, Attention):
            kept["attention"].append({"attention": entry.to_dict(), "sites": held})
        else:
            kept["plan"].append({"decomposition": entry.to_dict(), "sites": held})
    return kept


def plan_from_dict(kept: dict[str, Any]) -> Plan:
    """The inverse of `plan_to_dict`. Raises ValueError for a plan of a newer version."""
    if kept.get("version", 0) > VERSION:
        raise ValueError(
            f"the checkpoint's plan has version {kept['version']}, this tlm reads up to {VERSION}: "
            "upgrade tlmtool"
        )
    plan: Plan = {
        s: attention.from_dict(g["attention"])
        for g in kept.get("attention", ())
        for s in g["sites"]
    }
    return plan | {s: from_dict(g["decomposition"]) for g in kept["plan"] for s in g["sites"]}


def below(model: PreTrainedModel, site: str) -> str:
    """The path of a site from the model itself."""
    return site if model.base_model is model else f"{model.base_model_prefix}.{site}"


def _factorize_tied(
    model: PreTrainedModel, table: str, decomposition: Decomposition, factors: dict[str, Tensor]
) -> None:
    """Replace every module that shares the embedding at the path `table`; they share its factors
    afterwards."""
    ties, weight = dense_ties(model), f"{table}.weight"
    weight = ties.get(weight, weight)
    tied = [weight, *(target for target, source in ties.items() if source == weight)]
    first: Factorized | None = None
    renamed: dict[str, list[str]] = {}
    for path in (name.removesuffix(".weight") for name in tied):
        module = model.get_submodule(path)
        kind = FactorizedEmbedding if isinstance(module, TABLES) else FactorizedLinear
        new = kind(decomposition, module, factors)
        first = first or new
        for link, source in zip(new.links, first.links, strict=True):
            link.weight = weight_of(source)
        model.set_submodule(path, new)
        renamed[f"{path}.weight"] = [f"{path}.weight.{e}.weight" for e in ("left", "right")]
        renamed[f"{path}.bias"] = [f"{path}.weight.left.bias"]
    rename(model, renamed)
