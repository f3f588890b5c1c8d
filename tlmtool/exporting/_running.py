"""Runs an exported graph beside its model: whether it computes the same, and how long it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from tlmtool.exporting._graph import Flat
from tlmtool.exporting._inputs import Signature, example, examples
from tlmtool.failure import CheckFailed
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.passes import in_turns
from tlmtool.report.building import built
from tlmtool.report.parts.exported import Beside, Timed
from tlmtool.report.parts.parity import Parity

TOLERANCE = 1e-4  # of the largest output: kernels of other runtimes add in another order
LENGTH = 128  # tokens of the text that is timed, where the model has as many positions
Runner = Callable[[dict[str, Tensor]], list[Tensor]]  # inputs by name -> outputs in their order


@torch.no_grad()
def of_torch(model: Any, made: Signature) -> Runner:
    """The model as a runner."""
    flat = Flat(model, made).eval()
    return lambda given: list(flat(*given.values()))


def apart(model: Any, made: Signature, first: Runner, second: Runner) -> tuple[float, float]:
    """(largest difference of an output of `first` from `second`, the same relative to the largest
    number of that output), over several sizes of inputs. Padding is not compared."""
    largest, relative = 0.0, 0.0
    with torch.no_grad():
        for given in examples(model, made):
            mask = given["attention_mask"].bool()
            for one, other in zip(first(given), second(given), strict=True):
                real = _real(other, mask)
                one, other = one.double()[real], other.double()[real]
                found = float((one - other).abs().max())
                largest = max(largest, found) if isfinite(found) else found
                share = found / max(float(other.abs().max()), 1e-30)
                relative = max(relative, share) if isfinite(share) else share
                if not isfinite(share):
                    return largest, relative
    return largest, relative


def _real(output: Tensor, mask: Tensor) -> Any:
    """An index of what belongs to no padding: of outputs (B, N, ...) and caches (B, H, P, D)."""
    if output.ndim == 4 and output.shape[2] == mask.shape[1]:
        return mask[:, None, :].expand(output.shape[:3])
    length = output.shape[1] if output.ndim > 1 else 0
    if output.ndim == 3 and output.shape[0] == mask.shape[0] and length <= mask.shape[1]:
        return mask[:, mask.shape[1] - length :]
    return ...


def checked(model: Any, made: Signature, runner: Runner, what: str) -> Parity:
    """How far a runner of the exported file is from the model. Raises CheckFailed beyond the
    tolerance, or where an output is no number."""
    largest, relative = apart(model, made, runner, of_torch(model, made))
    if not relative <= TOLERANCE:
        raise CheckFailed(
            f"{what} differs from the model by {relative:.1e} of its largest output, more than "
            f"{TOLERANCE:g}: nothing was written"
        )
    return Parity(max_abs=largest, relative=relative, tolerance=TOLERANCE)


@dataclass(frozen=True)
class Ready:
    """A model that runs, in torch or from a file, with the inputs that it is timed on. `id`: what
    its row of the table is called."""

    id: str
    run: Runner
    file_bytes: int
    given: dict[str, Tensor]


def timed_example(model: Any, made: Signature) -> dict[str, Tensor]:
    """One text without padding and without earlier tokens."""
    return example(model, made, 1, min(LENGTH, position_limit(model) or LENGTH))


@torch.no_grad()
def timed(several: list[Ready], runs: int) -> Beside:
    """The bytes and the time of a pass over one text, of several models that take turns."""
    found = in_turns({each.id: partial(each.run, each.given) for each in several}, runs)
    rows = [
        built(Timed, {"id": e.id, "file_bytes": e.file_bytes, "latency_ms": found[e.id]})
        for e in several
    ]
    batch, length = several[0].given["input_ids"].shape
    threads = torch.get_num_threads()
    return Beside(batch=batch, length=length, threads=threads, models=tuple(rows))
