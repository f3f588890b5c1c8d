"""How much memory a command may use, and what share of it each thing may take."""

import logging
from dataclasses import dataclass

import psutil
import torch

from tlmtool.files.numbers import size
from tlmtool.models.checkpoint import device_of
from tlmtool.models.folder import Folder
from tlmtool.models.weights import dtypes_of
from tlmtool.recipe.building import Recipe
from tlmtool.recipe.schema import settings
from tlmtool.report.figures import human

log = logging.getLogger("tlmtool")
HALF = 2  # weights that take more than a half of the memory stay in their files
WEIGHTS = 8  # and then at most an eighth of it is kept of them between two blocks
ACTIVATIONS = 4  # activations beyond a quarter of it go to disk; the rest is for work on one layer


@dataclass(frozen=True)
class Limit:
    """The memory of a run, in bytes; `asked` where it was given by `--memory`."""

    bytes: int
    asked: bool

    @property
    def weights(self) -> int:
        """Bytes of weights in their files that may stay in memory between two blocks."""
        return self.bytes // WEIGHTS

    @property
    def activations(self) -> int:
        """Bytes of activations in memory; more of them go to disk."""
        return self.bytes // ACTIVATIONS

    def streams(self, folder: Folder, dtype: str) -> bool:
        """Whether the weights of a folder, in this dtype, stay in their files; says so. Those of a
        quantized checkpoint are in no file as floats."""
        if folder.quantized:
            return False
        taken = _bytes(folder, dtype)
        if taken * HALF <= self.bytes:
            return False
        given = "of --memory" if self.asked else "that are free"
        log.info(
            "%s of weights are more than half of the %s %s: they stay in their files, and are read "
            "block by block",
            human(taken, "B"),
            human(self.bytes, "B"),
            given,
        )
        return True


def limit_of(recipe: Recipe) -> Limit | None:
    """The memory of a run by its recipe; None for a verb or a device without such a limit."""
    if "memory" not in settings(recipe.verb) or device_of(recipe.device).type != "cpu":
        return None
    if recipe.memory is not None:
        return Limit(size(recipe.memory), True)
    return Limit(psutil.virtual_memory().available, False)


def _bytes(folder: Folder, dtype: str) -> int:
    """The bytes of the weights of a folder in a dtype."""
    used = next(iter(dtypes_of(folder.tensors)), torch.float32)
    used = used if dtype == "auto" else getattr(torch, dtype)
    return used.itemsize * sum(each.numbers for each in folder.tensors.values())
