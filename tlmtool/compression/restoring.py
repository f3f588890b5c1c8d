"""The tensors of fitted sites: read off a model, and put back where a killed run fitted them."""

from typing import Any

import torch
from torch import Tensor

from tlmtool.compression.journal import Journal
from tlmtool.decompositions import Decomposition
from tlmtool.models.factorized import first_of, shape
from tlmtool.models.surgery import below, hold
from tlmtool.models.ties import loosen


def tensors_of(model: Any, sites: list[str]) -> dict[str, Tensor]:
    """{name in the state dict: tensor} of fitted sites. Each gets memory of its own, as those of a
    resumed run have: the last bits of a product can depend on strides and on alignment."""
    found = {}
    for site in sites:
        module = model.base_model.get_submodule(site)
        for name, tensor in module.named_parameters(prefix=below(model, site)):
            tensor.data = tensor.detach().clone(memory_format=torch.contiguous_format)
            found[name] = tensor
    return found


def put_back(model: Any, plan: dict[str, Decomposition], journal: Journal) -> list[dict[str, Any]]:
    """Give the model the finished groups of a journal. Returns the records of their sites.

    Raises NotLoadable where they are not of this model.
    """
    records: list[dict[str, Any]] = []
    for k, group in enumerate(journal.groups):
        tensors = journal.tensors_of(k)
        for site in group.sites:
            start = f"{below(model, site)}."
            own = {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
            try:
                _restore(model, site, plan.get(site), own)
            except (AttributeError, LookupError, RuntimeError, ValueError) as error:
                raise journal.misfit() from error
        records += group.records
    return records


def _restore(
    model: Any, site: str, taken: Decomposition | None, tensors: dict[str, Tensor]
) -> None:
    """Give a site the tensors {name in its module: tensor} that were fitted for it."""
    dense = model.base_model.get_submodule(site)
    trainable, device = first_of(dense).requires_grad, first_of(dense).device
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    if taken is not None:
        loosen(model)
        end = ".weight" if taken.chain else ""
        factors = taken.shapes(*shape(dense))
        hold(model, site, taken, {k: tensors.pop(f"weight.{k}{end}") for k in factors})
    module = model.base_model.get_submodule(site)
    module.load_state_dict(tensors, strict=taken is None, assign=True)  # what is left: biases
    module.requires_grad_(trainable)
