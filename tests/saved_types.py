"""Saves tiny factorized models of many types, or re-loads them in a process of its own.

`python tests/saved_types.py save|load DIR TYPE...` prints a JSON line for each type and head: what
went wrong, or nothing.
"""

import json
import logging
import pickle
import sys
import warnings
from pathlib import Path

import torch
import transformers
from every_type import heads_of, output, tiny
from torch import nn
from transformers import PreTrainedModel

import tlmtool
from tlmtool.decompositions.svd import SVD
from tlmtool.models.factorized import shape
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, sites

ROUNDING = 1e-6  # for a type whose dense model transformers does not re-load to the last bit
CLOSE = 1e-4  # of the largest output: merging rounds each weight once to float32


def save(kind: str, head: str, place: Path) -> None:
    """Save a model with every linear factorized, and its output."""
    auto, made = getattr(transformers, head), tiny(kind, head)
    assert output(made).isfinite().all(), "the outputs of the dense model are not finite"
    made.save_pretrained(place / "dense")
    model = (auto if type(made.config) in auto._model_mapping else type(made)).from_pretrained(
        place / "dense"
    )
    exact = torch.equal(output(model), output(made))  # a few types round by place in memory
    dense = [site for site, role in sites(model).items() if role != "embedding"]
    assert dense, "no linear is a site"
    shapes = {site: shape(model.base_model.get_submodule(site)) for site in dense}
    factorize(model, {site: SVD(rank=min(2, *shapes[site])) for site in dense})
    adopt(model).save_pretrained(place / "tlm")
    torch.save((output(model), exact), place / "output.pt")


def load(kind: str, head: str, place: Path) -> None:
    """Re-load what `save` wrote, merge it, and load the merged checkpoint as transformers does."""
    auto, (wanted, exact) = getattr(transformers, head), torch.load(place / "output.pt")
    model, info = auto.from_pretrained(place / "tlm", output_loading_info=True)
    assert not any(info.values()), f"re-loading reports {info}"
    assert _apart(model, wanted) <= (0 if exact else ROUNDING), "other outputs when re-loaded"
    assert type(pickle.loads(pickle.dumps(model.config))) is type(model.config)
    _refused(type(model.config).__mro__[1], place / "tlm")
    merged = tlmtool.merge(model)
    assert type(merged).__module__.startswith("transformers."), "merging leaves our class"
    assert (off := _apart(merged, wanted)) < CLOSE, f"merging changes the outputs by {off:.1e}"
    merged.save_pretrained(place / "plain")
    plain, info = auto.from_pretrained(place / "plain", output_loading_info=True)
    assert type(plain) is type(merged) and not any(info.values()), f"the plain one: {info}"
    _same_parameters(plain, merged)
    off = _apart(plain, output(merged))
    assert off <= (0 if exact else ROUNDING), f"the plain checkpoint is off by {off:.1e}"


def _apart(model: PreTrainedModel, wanted: torch.Tensor) -> float:
    """The largest difference of a model's output, relative to the largest that is wanted."""
    return float((output(model) - wanted).abs().max() / wanted.abs().max())


def _same_parameters(one: nn.Module, other: nn.Module) -> None:
    one, other = dict(one.named_parameters()), dict(other.named_parameters())
    assert one.keys() == other.keys(), f"other names: {one.keys() ^ other.keys()}"
    odd = [name for name in one if not torch.equal(one[name], other[name])]
    assert not odd, f"other numbers in {odd}"


def _refused(cls: type, folder: Path) -> None:
    try:
        cls.from_pretrained(folder)
    except Exception:
        return
    raise AssertionError("the config class of transformers takes our config.json")


def main(verb: str, folder: str, *kinds: str) -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for kind in kinds:
        for head in heads_of(kind):
            place, wrong = Path(folder) / f"{kind}-{head}", ""
            if verb == "load" and not (place / "output.pt").exists():
                continue  # `save` has said why
            try:
                (save if verb == "save" else load)(kind, head, place)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
            print(json.dumps([kind, head, wrong]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
