"""One function that walks a plan and swaps dense modules for factorized ones, and its inverse."""

from collections.abc import Iterator

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool import attention
from tlmtool.attention import Attention
from tlmtool.decompositions import Decomposition, from_dict
from tlmtool.models.architectures import architecture
from tlmtool.models.attending import OutputBias, attend, converted
from tlmtool.models.factorized import (
    Factorized,
    FactorizedEmbedding,
    FactorizedLinear,
    dense_weight,
    set_weight,
    shape,
)
from tlmtool.models.ties import loosen, parts

Plan = dict[str, Decomposition | Attention]  # {site: decomposition, attention module: kernel}
VERSION = 1
TABLES = (nn.Embedding, FactorizedEmbedding)


def sites(model: PreTrainedModel) -> dict[str, str]:
    """{site: role}, in the model's order; a role of the family without a site raises ValueError."""
    row = architecture(model.config.model_type)
    kinds = (nn.Linear, Conv1D, nn.Embedding, Factorized)
    found = {
        path: role
        for path, module in model.base_model.named_modules()
        if isinstance(module, kinds) and (role := row.role_of(path))
    }
    embeddings = [site for site, role in found.items() if role == "embedding"]
    for site in embeddings[1:]:  # one table, named where the family names it first
        del found[site]
    mapped = {
        row.role_of(p) for p, m in model.base_model.named_modules() if isinstance(m, OutputBias)
    }
    missing = {*row.roles, "embedding"} - {*found.values(), *row.optional, *mapped}
    if missing:
        raise ValueError(
            f"{type(model).__name__} has no module for the role {', '.join(sorted(missing))}: "
            "the names of its modules are not those of the table of families"
        )
    return found


def modes(model: PreTrainedModel, site: str, role: str) -> tuple[int, int] | None:
    """(H, D), how O of an attention projection splits into heads; None for any other role."""
    config, (o, _) = model.config, shape(model.base_model.get_submodule(site))
    if role not in ("query", "key", "value", "qkv", "output"):
        return None
    heads = config.num_attention_heads
    if "decoder" in site.split("."):
        heads = getattr(config, "decoder_attention_heads", heads)
    if role in ("key", "value"):
        heads = getattr(config, "num_key_value_heads", None) or heads
    heads *= 3 if role == "qkv" else 1
    return (heads, o // heads) if o % heads == 0 else None


def factorize(
    model: PreTrainedModel,
    plan: Plan,
    metrics: dict[str, Tensor] | None = None,
    output_metrics: dict[str, Tensor] | None = None,
) -> None:
    """Dense -> factors, in place, at the sites of the plan. Also on the meta device: sizes only.

    `metrics`: {site: input covariance (I, I) or (I,)}; of an embedding, the frequency of each row
    (V,). `output_metrics`: {site: weight of output errors (O, O)}, for forms that take one. An
    embedding takes every module that shares its weight along. Attention modules of the plan change
    to their kernels first.
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
    attend(model, {path: form for path, form in plan.items() if isinstance(form, Attention)})
    for site, decomposition in plan.items():
        if isinstance(decomposition, Attention):
            continue
        dense = base.get_submodule(site)
        weight, metric = dense_weight(dense), metrics.get(site)
        output = output_metrics.get(site)
        if isinstance(dense, TABLES) and decomposition.name != "svd":
            raise ValueError(f"{site}: an embedding takes the svd form, not {decomposition.name}")
        try:
            if weight.is_meta:
                sizes = decomposition.shapes(*weight.shape)
                factors = {k: weight.new_empty(s) for k, s in sizes.items()}
            elif isinstance(dense, TABLES):
                flipped = decomposition.decompose(weight.T, metric, output)
                factors = {"left": flipped["right"].T.contiguous()}
                factors["right"] = flipped["left"].T.contiguous()
            else:
                factors = decomposition.decompose(weight, metric, output)
        except ValueError as error:
            raise ValueError(f"{site}: {error}") from None
        if isinstance(dense, TABLES):
            _factorize_tied(model, _below(model, site), decomposition, factors)
        else:
            base.set_submodule(site, FactorizedLinear(decomposition, dense, factors))


def hold(
    model: PreTrainedModel, site: str, form: Decomposition, factors: dict[str, Tensor]
) -> None:
    """The linear at a site becomes these factors, in place."""
    base = model.base_model
    base.set_submodule(site, FactorizedLinear(form, base.get_submodule(site), factors))


def let_go(model: PreTrainedModel, site: str) -> nn.Module:
    """The factorized linear at a site becomes dense, in place; returns the dense module."""
    module = model.base_model.get_submodule(site)
    dense, weight = module.form[0], module.dense_weight()
    set_weight(dense.to(weight.dtype), weight)
    dense.weight.requires_grad_(next(iter(module.factors.values())).requires_grad)
    dense.bias = module.bias_parameter()
    model.base_model.set_submodule(site, dense.train(module.training))
    return dense


def skeleton(model: PreTrainedModel, plan: Plan) -> None:
    """Modules of the plan, where the model has them as its family does: a head may leave out a
    decoder, and some heads make their base model by its own Auto class, which has done it."""
    done = {path for path, _ in converted(model.base_model)}
    done |= {path for path, _ in factorized(model.base_model)}
    there = {path for path, _ in model.base_model.named_modules()} - done
    _factorize(model, {site: d for site, d in plan.items() if site in there}, {}, {})


def merge(model: PreTrainedModel) -> None:
    """Factors -> dense, in place: the inverse of `factorize`, each weight rebuilt in float64."""
    tables: dict[int, nn.Parameter] = {}  # a table that several modules share is rebuilt once
    for path, module in list(factorized(model)):
        first = next(iter(module.factors.values()))
        if id(first) not in tables:
            set_weight(module.form[0].to(first.dtype), module.dense_weight())
            tables[id(first)] = module.form[0].weight.requires_grad_(first.requires_grad)
        dense = module.form[0]
        dense.weight = tables[id(first)]
        if (bias := module.bias_parameter()) is not None:
            dense.bias = bias
        model.set_submodule(path, dense.train(module.training))
    for _, part in parts(model):
        part.__dict__.update(part.__dict__.pop("_dense_ties", {}))


def factorized(model: nn.Module) -> Iterator[tuple[str, Factorized]]:
    """(path, module) of every factorized module."""
    return ((p, m) for p, m in model.named_modules() if isinstance(m, Factorized))


def plan_of(model: PreTrainedModel) -> Plan:
    """The plan, read off the live modules."""
    base = model.base_model
    plan: Plan = {path: module.mixing for path, module in converted(base)}
    modules = ((site, base.get_submodule(site)) for site in sites(model))
    return plan | {site: m.decomposition for site, m in modules if isinstance(m, Factorized)}


def plan_to_dict(plan: Plan) -> dict:
    """What `config.json` keeps: sites with equal decompositions, or kernels, grouped."""
    groups: dict[Decomposition | Attention, list[str]] = {}
    for site, form in plan.items():
        groups.setdefault(form, []).append(site)
    kept: dict = {"version": VERSION, "plan": [], "attention": []}
    for form, held in groups.items():
        place, name = (
            ("attention", "attention") if isinstance(form, Attention) else ("plan", "decomposition")
        )
        kept[place].append({name: form.to_dict(), "sites": held})
    return kept


def plan_from_dict(kept: dict) -> Plan:
    """The inverse of `plan_to_dict`; a newer version raises ValueError."""
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


def _below(model: PreTrainedModel, site: str) -> str:
    """The path of a site from the model itself."""
    return site if model.base_model is model else f"{model.base_model_prefix}.{site}"


def _factorize_tied(
    model: PreTrainedModel, table: str, decomposition: Decomposition, factors: dict[str, Tensor]
) -> None:
    """Swap every module tied to the embedding at the path `table`; they share its factors then."""
    held = getattr(model, "_dense_ties", None) or vars(model)  # the former of factors of factors
    ties = held.get("all_tied_weights_keys") or {}
    weight = f"{table}.weight"
    weight = ties.get(weight, weight)
    tied = [weight, *(t for t, s in ties.items() if s == weight)]
    first, renamed = None, {}
    for path in (name.removesuffix(".weight") for name in tied):
        module = model.get_submodule(path)
        cls = FactorizedEmbedding if isinstance(module, TABLES) else FactorizedLinear
        new = cls(decomposition, module, factors)
        first = first or new
        for link, source in zip(new.weight, first.weight, strict=True):
            link.weight = source.weight
        model.set_submodule(path, new)
        renamed[f"{path}.weight"] = [f"{path}.weight.{e}.weight" for e in ("left", "right")]
        renamed[f"{path}.bias"] = [f"{path}.weight.left.bias"]
    for dot, part in parts(model):
        kept = ("_tied_weights_keys", "all_tied_weights_keys")
        if "_dense_ties" not in vars(part):  # for `merge`
            part._dense_ties = {a: getattr(part, a, None) for a in kept}
        for attribute, ties in part._dense_ties.items():
            names = {}
            for target, source in (ties or {}).items():
                targets = renamed.get(dot + target, [dot + target])
                sources = renamed.get(dot + source, [dot + source])
                if len(targets) == len(sources):  # else a tie that this model does not use
                    pairs = zip(targets, sources, strict=True)
                    names |= {t.removeprefix(dot): s.removeprefix(dot) for t, s in pairs}
            setattr(part, attribute, names)
