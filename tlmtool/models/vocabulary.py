"""Changing the number of rows of a factorized embedding, as transformers does for a dense one."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from tlmtool.models.factorized import Factorized, FactorizedEmbedding, weight_of
from tlmtool.models.ties import kept_ties, parts

DO = "run `tlm merge`, change the dense model, and compress it again"


def resize(model: PreTrainedModel, rows: int | None, change: Callable[[], object]) -> nn.Module:
    """Run transformers' own `change` on the rows of left (V, R) instead of those of W.

    A head that shares the table changes with it. The mean of the rows of left gives the mean of the
    rows of W, so new rows start as transformers would start them. Returns the table. Raises
    ValueError for fewer rows than the rank, and where encoder and decoder have separate tables:
    transformers would make them one.
    """
    if model.config.is_encoder_decoder and not model.config.tie_word_embeddings:
        raise ValueError(f"the encoder and the decoder have tables of their own: {DO}")
    table = model.get_input_embeddings()
    assert isinstance(table, FactorizedEmbedding)
    left = table.factors["left"]
    if rows is not None and rows < left.shape[1]:
        raise ValueError(
            f"a table of rank {left.shape[1]} cannot have {rows} rows: {DO} at a lower rank"
        )
    modules = [(p, m) for p, m in model.named_modules() if isinstance(m, Factorized)]
    held = [(path, m) for path, m in modules if m.factors.get("left") is left]
    tables = [(part, dict(ties)) for _, part in parts(model) if (ties := kept_ties(part))]
    now = [(part, {name: getattr(part, name) for name in ties}) for part, ties in tables]
    try:
        for part, ties in tables:
            vars(part).update(ties)
        for path, module in held:
            model.set_submodule(path, module.links.get_submodule("left"))
        change()
    finally:
        for path, module in held:
            module.links.left = model.get_submodule(path)
            module.out_features, rank = weight_of(module.links.left).shape
            module.decomposition = replace(module.decomposition, rank=rank)
            dense = module.dense
            size = "num_embeddings" if isinstance(dense, nn.Embedding) else "out_features"
            setattr(dense, size, module.out_features)
            model.set_submodule(path, module)
        for part, ties in now:
            vars(part).update(ties)
    return table


def check(held: nn.Module | None, value: nn.Module) -> None:
    """Raises ValueError where a dense module would replace a factorized one: other modules may
    share its factors."""
    if isinstance(held, Factorized) and not isinstance(value, Factorized):
        raise ValueError(f"the table of this model, or its head, is held as factors: {DO}")
