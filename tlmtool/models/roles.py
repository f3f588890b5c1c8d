"""The role of each linear of a model, read off the model: no table of names.

A forward pass shows which linear comes last before a residual add, and which ones feed it. With a
softmax on the way these are an attention block, else a feed-forward block. Names only tell query,
key and value apart. A linear in no such block is `other`.
"""

import copy
import re
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tlmtool.models.factorized import (
    Factorized,
    FactorizedEmbedding,
    FactorizedLinear,
    scale_of,
    shape,
)
from tlmtool.models.flow import ACTED, MIXED, SOFTMAX, Flow, flow_of
from tlmtool.models.holding import first_of

LINEARS = (nn.Linear, Conv1D, FactorizedLinear)
TABLES = (nn.Embedding, FactorizedEmbedding)
ATTENTION = ("query", "key", "value", "qkv", "output")
FFN = ("gate", "up", "gate_up", "down")
OTHER = "other"
GROUPS = {"attention": ATTENTION, "ffn": FFN, "embedding": ("embedding",)}
GROUPS["all"] = (*ATTENTION, *FFN, "embedding")
GROUPS["linears"] = (*ATTENTION, *FFN, OTHER)
WRITES_RESIDUAL = ("output", "down")  # roles whose output is added to the residual stream
KEPT = "_tlm_roles"  # where a base model keeps its roles; a change of its modules drops them
# The part of a name between dots or underscores that says what a linear of attention gives.
HINTS = {"query": "q|wq|query|queries", "key": "k|wk|key|keys", "value": "v|wv|value|values"}
FUSED = r"(?i)(^|_)(w?qkv|query_key_value|c_attn)(_|$)"
# Names by which a linear is known in a model that cannot run a short text.
ENDS = {
    "output": r"(?i)att\w*(\.\w+)*\.(o|out|out_lin|\w*o_proj|out_proj|c_proj|dense|wo)$",
    "gate": r"\.(gate_proj|wi_0)$",
    "up": r"\.(up_proj|fc1|fc_in|wi|wi_1|lin1|c_fc|intermediate\.dense)$",
    "gate_up": r"\.gate_up_proj$",
    "down": r"\.(down_proj|fc2|fc_out|wo|lin2|c_proj|output\.dense)$",
}


class Roles(NamedTuple):
    """`of`: {site: role} in the model's order. `kept_dense`: {linear that can be no site: why}.
    `mlps`: {down: the linears that feed it, and nothing else}, of each MLP that the pass reached.
    """

    of: dict[str, str]
    kept_dense: dict[str, str]
    mlps: dict[str, list[str]]


def roles_of(model: Any) -> Roles:
    """The sites of a base model. They are found once, and again after its linears have changed."""
    base = model.base_model
    linears, kept_dense = _linears(base)
    table = _table(base)
    for path in _outputs(base, table) & {*linears}:
        del linears[path]
    tied = _tied(model, base, linears)
    linears = {path: module for path, module in linears.items() if path not in tied}
    now = (*linears, table)
    held = vars(base).get(KEPT)
    if held is None or held[0] != now:
        roles, taken, mlps = _read(base, linears)
        if table:
            roles[table] = "embedding"
        order = {path: k for k, (path, _) in enumerate(base.named_modules())}
        roles = dict(sorted(roles.items(), key=lambda item: order[item[0]]))
        held = vars(base)[KEPT] = (now, Roles(roles, kept_dense | tied | taken, mlps))
    return held[1]


def _linears(base: nn.Module) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """({path: linear}, {path of one that computes more than a linear: why it is no site})."""
    found, odd, inside = dict[str, nn.Module](), dict[str, str](), ""
    for path, module in base.named_modules():
        if inside and path.startswith(inside):
            continue  # the factors of a site
        if isinstance(module, Factorized):
            inside = f"{path}."
        if isinstance(module, LINEARS):
            if plain(module):
                found[path] = module
            else:
                odd[path] = f"a {type(module).__name__} computes more than a linear layer"
    return found, odd


def _tied(model: nn.Module, base: nn.Module, linears: dict[str, nn.Module]) -> dict[str, str]:
    """{linear that shares its weight with another, in a head too: why it is no site}.

    Factors of one of them would untie the two.
    """
    kinds, inside = (*LINEARS, *TABLES), {id(module) for module in base.modules()}
    heads = ((p, m) for p, m in model.named_modules() if isinstance(m, kinds))
    owners: dict[int, list[str]] = {}
    for path, module in (*linears.items(), *((p, m) for p, m in heads if id(m) not in inside)):
        owners.setdefault(id(first_of(module)), []).append(path)
    return {
        path: f"it shares its weight with {next(each for each in paths if each != path)}"
        for paths in owners.values()
        if len(paths) > 1
        for path in paths
        if path in linears
    }


def plain(module: Any) -> bool:
    """Whether a linear, or a subclass of one, computes x W^T + b and nothing else."""
    if type(module) in (nn.Linear, Conv1D) or isinstance(module, Factorized):
        return True
    if type(module).forward is nn.Linear.forward and type(module).__call__ is nn.Module.__call__:
        return True
    return _computes_a_linear(module)


def _computes_a_linear(module: Any) -> bool:
    tried = copy.copy(module)
    draw = torch.Generator().manual_seed(0)
    sizes = ((3, 4), (3,), (2, 5, 4))
    weight, bias, x = (torch.randn(size, generator=draw, device="cpu") for size in sizes)
    held = nn.Parameter(weight, False), nn.Parameter(bias, False)
    tried._parameters = {"weight": held[0], "bias": None if module.bias is None else held[1]}
    tried.in_features, tried.out_features = 4, 3
    try:
        with torch.no_grad():
            y = type(module).forward(tried, x)
    except Exception:  # another module's own code raises errors of many kinds
        return False
    wanted = nn.functional.linear(x, weight, None if module.bias is None else bias)
    return (
        isinstance(y, Tensor) and y.shape == wanted.shape and torch.allclose(y, wanted, atol=1e-5)
    )


def _table(base: Any) -> str | None:
    """The path of the table of tokens; where several modules share it, the first of them."""
    try:
        table = base.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        return None
    if not isinstance(table, TABLES) or scale_of(table) is None:
        return None
    paths = (path for path, module in base.named_modules() if isinstance(module, TABLES))
    return next(path for path in paths if first_of(base.get_submodule(path)) is first_of(table))


def _outputs(base: Any, table: str | None) -> set[str]:
    """The linears that give scores of tokens: the output embedding, and what shares the table."""
    try:
        head = base.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        head = None
    held = first_of(base.get_submodule(table)) if table else None
    linears = ((p, m) for p, m in base.named_modules() if isinstance(m, LINEARS))
    return {path for path, m in linears if m is head or (held is not None and first_of(m) is held)}


def _read(
    base: nn.Module, linears: dict[str, nn.Module]
) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """({linear: role}, {linear that its model does not call: why it is no site}, {down: what feeds
    it})."""
    flow = flow_of(base, linears)
    if flow is None:
        return {path: _by_name(path) for path in linears}, {}, {}
    why = "the model reads its weight itself and does not call it"
    taken = {path: why for path in linears if path in flow.taken}
    roles = dict.fromkeys((path for path in linears if path not in taken), OTHER)
    in_layers = {path: None for path in roles if re.search(r"(^|\.)\d+\.", path)}
    for end in [path for path in in_layers if path in flow.feeds]:
        feeds = {s: how for s, how in flow.feeds[end].items() if s in in_layers}
        roles |= _block(end, feeds, linears, flow)
    downs = {end: [*flow.feeds[end]] for end in in_layers if roles[end] == "down"}
    fed = Counter(site for feeds in flow.feeds.values() for site in feeds)
    mlps = {end: firsts for end, firsts in downs.items() if all(fed[s] == 1 for s in firsts)}
    return _unseen(roles, flow), taken, mlps


def _block(
    end: str, feeds: dict[str, int], linears: dict[str, nn.Module], flow: Flow
) -> dict[str, str]:
    """{linear: role} of a block, by the linear at its end and those that feed it; {} for none."""
    if mixed := {site: how for site, how in feeds.items() if how & (SOFTMAX | MIXED)}:
        known = [site for site in mixed if site not in flow.unread]
        found = {site: name for site in known if (name := _hint(site))}
        soft = any(how & SOFTMAX for how in mixed.values())
        if soft and len(known) == 1 and end in flow.ends:
            found = dict.fromkeys(known, "qkv")
        whole = "qkv" in found.values() or {*HINTS} <= {*found.values()}
        return {**found, end: "output"} if whole or (soft and end in flow.ends) else {}
    outs, width = [shape(linears[site])[0] for site in feeds], shape(linears[end])[1]
    ends = end in flow.ends
    if ends and len(feeds) == 1 and outs[0] in (width, 2 * width):
        return {**dict.fromkeys(feeds, "up" if outs[0] == width else "gate_up"), end: "down"}
    if len(feeds) == 2 and outs == [width, width]:
        acting = [site for site, how in feeds.items() if how & ACTED]
        back = all(shape(linears[site])[1] == shape(linears[end])[0] for site in feeds)
        if not ends and not (back and len(acting) == 1):  # some scale the stream as they add
            return {}
        gate = acting[0] if len(acting) == 1 else next((s for s in feeds if "gate" in s), None)
        gate = gate or next(iter(feeds))
        return {**{site: "gate" if site == gate else "up" for site in feeds}, end: "down"}
    return {}


def _hint(path: str) -> str | None:
    """Query, key, value or qkv by the name of a linear; None where it says none or several."""
    name = path.rpartition(".")[2]
    if re.search(FUSED, name):
        return "qkv"
    parts = name.lower().split("_")
    if "a" in parts:  # the first of two matrices of low rank, as in q_a_proj
        return None
    found = [role for role, words in HINTS.items() if {*words.split("|")} & {*parts}]
    return found[0] if len(found) == 1 else None


def _unseen(roles: dict[str, str], flow: Flow) -> dict[str, str]:
    """A linear that the pass did not reach, such as an expert, has the role of its like."""
    like: dict[str, str] = {}
    for path, role in roles.items():
        if path in flow.called:
            like.setdefault(_pattern(path), role)
    return {
        path: role if path in flow.called else like.get(_pattern(path), _by_name(path))
        for path, role in roles.items()
    }


def _pattern(path: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", path)


def _by_name(path: str) -> str:
    """The role that a linear's name says; `other` outside of numbered layers."""
    if not re.search(r"(^|\.)\d+\.", path):
        return OTHER
    if role := _hint(path):
        return role
    return next((role for role, end in ENDS.items() if re.search(end, path)), OTHER)
