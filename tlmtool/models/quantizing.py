"""Weights of a model at 8 or 4 bits: which of them, what that takes, and the rounding in place."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tlmtool.models.architectures import PREFIX
from tlmtool.models.holding import Turned
from tlmtool.models.rounding import (
    GROUPS,
    LEAST,
    Levels,
    group_of,
    levels,
    packed_bytes,
    rounded,
)

FLOATS, HALF = 16, torch.float16  # bits of an embedding that is not rounded, and what a wider one
# becomes: in float32 it would be larger than all that 4 bits save
KINDS = (nn.Linear, nn.Embedding, Conv1D, Turned)  # modules whose weight is rounded


class Width(NamedTuple):
    """How a weight is stored: bits of a number, and how many numbers share a scale."""

    bits: int
    group: int


@dataclass
class Chosen:
    """The weights of a model that are rounded.

    `widths`: {name of the parameter: how it is stored}; `names`: {name: every name that the
    parameter has}; `left`: names of matrices that stay as they are; `halves`: names of embeddings
    that are stored as float16. `plain`: whether the checkpoint loads without tlm.
    """

    bits: int
    embedding: int
    plain: bool
    widths: dict[str, Width] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    halves: list[str] = field(default_factory=list)


def is_plain(model: PreTrainedModel) -> bool:
    """Whether a model is of a type of transformers, without factors or kernels of ours."""
    return not str(model.config.model_type).startswith(PREFIX)


def embedding_bits(asked: int | None, bits: int, plain: bool) -> int:
    """Bits of the embedding, where nothing else is asked for: 8, which costs no quality. A plain
    checkpoint of 4 bits keeps its embedding in floats, because transformers reads one number of
    bits in a whole checkpoint."""
    if asked is not None:
        return asked
    return FLOATS if plain and bits != 8 else 8


def choose(
    model: PreTrainedModel, bits: int, embedding: int | None = None, plain: bool | None = None
) -> Chosen:
    """The weights of linears and embeddings at these bits. `embedding`: bits of tables of tokens,
    of positions and of the head that predicts tokens; 16 leaves them as they are.

    In a plain checkpoint every weight has groups of one size, as transformers reads them. `plain`:
    whether it will be one; by default, whether the model is.
    """
    plain = is_plain(model) if plain is None else plain
    table = embedding_bits(embedding, bits, plain)
    found = Chosen(bits, table, plain and table in (bits, FLOATS))
    wanted = _matrices(model, found)
    group = _shared(wanted.values(), bits) if found.plain else None
    for name, (weight, own) in wanted.items():
        width = weight.shape[1]
        each = group if found.plain else group_of(width, own)
        if each is None or width % each or width < LEAST:
            found.left.append(name)
        else:
            found.widths[name] = Width(own, each)
    return found


def _matrices(model: PreTrainedModel, found: Chosen) -> dict[str, tuple[Tensor, int]]:
    """{name: (weight, its bits)} of each matrix of a linear or an embedding that is rounded. Other
    matrices with numbers of their own are noted as left."""
    head = model.get_output_embeddings()
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding | Turned)}
    if isinstance(head, nn.Linear):
        tables.add(id(head.weight))
    held = {id(m.weight) for m in model.modules() if isinstance(m, KINDS)}
    names: dict[int, list[str]] = {}
    wanted = {}
    for name, weight in _saved(model, model.named_parameters(remove_duplicate=False)):
        names.setdefault(id(weight), []).append(name)
        first = len(names[id(weight)]) == 1
        if not first or weight.ndim < 2 or not weight.is_floating_point():
            continue
        if id(weight) not in held or weight.ndim > 2:
            found.left.append(name)
            continue
        bits = found.embedding if id(weight) in tables else found.bits
        found.names[name] = names[id(weight)]
        if bits != FLOATS:
            wanted[name] = (weight, bits)
        elif weight.itemsize > HALF.itemsize:
            found.halves.append(name)
    return wanted


def _saved(
    model: PreTrainedModel, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Those of the tensors that transformers writes to files; sinusoids it does not."""
    unsaved = set(model._keys_to_ignore_on_save or ())
    return ((name, tensor) for name, tensor in tensors if name not in unsaved)


def _shared(weights: Any, bits: int) -> int | None:
    """The size of group that divides the rows of the most numbers; the usual one, or a half or a
    quarter of it. None where none divides any."""
    sizes = [size for size in (GROUPS[bits] // n for n in (1, 2, 4)) if size >= LEAST]
    covered = {size: sum(w.numel() for w, _ in weights if w.shape[1] % size == 0) for size in sizes}
    best = max(sizes, key=lambda size: (covered[size], size))
    return best if covered[best] else None


@torch.no_grad()
def round_in_place(model: PreTrainedModel, chosen: Chosen) -> Iterator[tuple[str, Width, Levels]]:
    """Give each chosen weight its rounded numbers, one after another: (name, how it is stored, its
    levels)."""
    for name, width in chosen.widths.items():
        weight = model.get_parameter(name)
        found = levels(weight, *width)
        weight.copy_(found.numbers(weight.dtype))
        yield name, width, found


@contextmanager
def rounded_for_now(model: PreTrainedModel, chosen: Chosen) -> Iterator[None]:
    """Inside, the chosen weights have their rounded numbers; afterwards their own again."""
    own: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, width in chosen.widths.items():
                weight = model.get_parameter(name)
                own[name] = weight.data
                weight.data = rounded(weight, *width)
        yield
    finally:
        for name, data in own.items():
            model.get_parameter(name).data = data


def stored_bytes(model: PreTrainedModel, chosen: Chosen) -> int:
    """Bytes of all tensors of the model in files with the chosen weights packed, counted."""
    packed = {
        alias: (name, packed_bytes(model.get_parameter(name), *chosen.widths[name]))
        for name in chosen.widths
        for alias in chosen.names[name]
    }
    packed |= {
        alias: (name, model.get_parameter(name).numel() * HALF.itemsize)
        for name in chosen.halves
        for alias in chosen.names[name]
    }
    return _summed(dict(_saved(model, model.state_dict(keep_vars=True).items())), packed)


def _summed(tensors: Mapping[str, Tensor], packed: Mapping[str, tuple[str, int]]) -> int:
    sizes: dict[Any, int] = {}
    for name, tensor in tensors.items():
        key, size = packed.get(name, (id(tensor), tensor.nbytes))
        sizes[key] = size
    return sum(sizes.values())
