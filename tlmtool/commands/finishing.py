"""What follows a compression before the model is measured again: `--recover`, then `--plain`."""

from dataclasses import dataclass
from typing import Any

from tlmtool.commands.run import Run
from tlmtool.compression.candidates import Candidates
from tlmtool.compression.widths import even, share_of
from tlmtool.failure import Usage
from tlmtool.measuring.comparison import check, parity, probe
from tlmtool.models.architectures import PREFIX
from tlmtool.models.plain import make_plain, width_keys
from tlmtool.models.streaming import keep_in_memory
from tlmtool.recipe.building import Recipe
from tlmtool.report.layout import Part


@dataclass(frozen=True)
class Plain:
    """What makes a narrower model a plain one: the keys of config.json that say its width."""

    keys: tuple[str, ...]
    width: int

    def make(self, run: Run, model: Any) -> None:
        """Make the model plain, in place. Raises CheckFailed where it computes something else."""
        with run.stage("plain"):
            before = probe(model, run.recipe.seed)
            again = make_plain(model, self.keys, self.width)
            found = parity(probe(again, run.recipe.seed), before)
        check(found, "the plain checkpoint differs from the narrower model", model)


def plain_of(recipe: Recipe, empty: Any, sites: Candidates | None) -> Plain | None:
    """What `--plain` will need; None without it. `empty`: the model without weights.

    Raises Usage where the narrower model cannot be a plain one of its family.
    """
    wanted = recipe.compression
    if not wanted.plain or sites is None:
        return None
    if str(empty.config.model_type).startswith(PREFIX):
        raise Usage(f"--plain needs a plain model, and {recipe.model} needs tlm to load")
    widths = {wanted.rank} if wanted.rank is not None else _widths(sites, wanted.share or 1.0)
    left = {mlp.width for mlp in sites.mlps.values()}
    if len(widths) > 1 or len(left) > 1:
        raise Usage(
            "--plain gives all MLPs one width, and those of this model differ: leave it out"
        )
    width = widths.pop()
    assert width is not None
    try:
        return Plain(width_keys(empty, [*sites.mlps.values()], width), width)
    except ValueError as error:
        raise Usage(f"{error}: leave out --plain, and tlm loads the checkpoint") from None


def finished(
    run: Run, model: Any, recovery: Any, empty: Any, sites: Candidates | None
) -> list[Part]:
    """Train a compressed model, and make it plain, where that is wanted; the parts on it. `empty`:
    the model before, without weights; `sites`: those of the budget."""
    parts = list[Part]()
    if recovery:
        keep_in_memory(model)
        with run.stage("recover"):
            parts.append(recovery.recover(model))
    if plain := plain_of(run.recipe, empty, sites):
        plain.make(run, model)
    return parts


def _widths(sites: Candidates, keep: float) -> set[int]:
    return {*even(sites, share_of(sites, keep)).values()}
