"""A factorized table whose number of rows changes, as transformers changes that of a dense one."""

from collections.abc import Callable
from dataclasses import replace

from torch import nn
from transformers import PreTrainedModel

from tlmtool.models.factorized import Factorized
from tlmtool.models.ties import parts

DO = "run `tlm merge`, change the dense model, and compress it again"


def resize(model: PreTrainedModel, rows: int | None, change: Callable[[], object]) -> nn.Module:
    """Run `change`, transformers' own, on the rows of left (V, R) in place of those of W, also of
    the head that shares them: the mean of rows of left is that of rows of W. Returns the table.

    Raises ValueError for fewer rows than the rank, and where two sides have tables of their own,
    which transformers would make one."""
    if model.config.is_encoder_decoder and not model.config.tie_word_embeddings:
        raise ValueError(f"the encoder and the decoder have tables of their own: {DO}")
    table = model.get_input_embeddings()
    left = table.weight.left.weight
    if rows is not None and rows < left.shape[1]:
        raise ValueError(
            f"a table of rank {left.shape[1]} cannot have {rows} rows: {DO} at a lower rank"
        )
    modules = [(p, m) for p, m in model.named_modules() if isinstance(m, Factorized)]
    held = [(path, m) for path, m in modules if m.factors.get("left") is left]
    tables = [(part, dict(ties)) for _, part in parts(model) if (ties := _dense(part))]
    now = [(part, {name: getattr(part, name) for name in ties}) for part, ties in tables]
    try:
        for part, ties in tables:
            vars(part).update(ties)
        for path, module in held:
            model.set_submodule(path, module.weight.left)
        change()
    finally:
        for path, module in held:
            module.weight.left = model.get_submodule(path)
            module.out_features, rank = module.weight.left.weight.shape
            module.decomposition = replace(module.decomposition, rank=rank)
            form = module.form[0]
            size = "num_embeddings" if isinstance(form, nn.Embedding) else "out_features"
            setattr(form, size, module.out_features)
            model.set_submodule(path, module)
        for part, ties in now:
            vars(part).update(ties)
    return table


def check(held: nn.Module | None, value: nn.Module) -> None:
    """Raises ValueError for a dense module in the place of one whose factors others share."""
    if isinstance(held, Factorized) and not isinstance(value, Factorized):
        raise ValueError(f"the table of this model, or its head, is held as factors: {DO}")


def _dense(part: PreTrainedModel) -> dict:
    return vars(part).get("_dense_ties", {})
