"""`--resume`: a run that is done already, one that was killed, and what a compression keeps."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from tlmtool.commands.calibrating import resolved
from tlmtool.commands.run import Run
from tlmtool.commands.targets import as_found, limit_of, target_of, translated
from tlmtool.compression.journal import Journal
from tlmtool.data.fingerprints import Sums, changed, known_of, sums_of
from tlmtool.failure import Usage, speaks
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe, to_dict
from tlmtool.recipe.inputs import spelled
from tlmtool.report.kept import read_report
from tlmtool.report.parts.ending import Ending, Inputs
from tlmtool.report.progress import log
from tlmtool.report.report import Report


class State(Protocol):
    """What a run keeps beside its result until that is written."""

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        ...

    @property
    def there(self) -> bool:
        """Whether anything is kept there."""
        ...

    def check_place(self) -> None:
        """Raises Usage where others have files in its place."""
        ...

    def remove(self) -> None:
        """Remove all of it."""
        ...


def ended(
    recipe: Recipe,
    out: Path,
    same: Callable[[dict[str, Any]], dict[str, Any]],
    inputs: Sums,
    state: State,
) -> Report | None:
    """With `--resume`, the report of a run that has ended already; None for others.

    `same`: of the values of a recipe, those that a run which goes on must share. Raises Usage where
    another recipe, or other files, made what is there."""
    if not done_already(recipe, out):
        return None
    found = read_report(out / "report.json", recipe.verb)
    ending, read = found.part(Ending), found.part(Inputs)
    made, asked = same(ending.recipe if ending else {}), same(to_dict(recipe))
    key = next((k for k in sorted({*made, *asked}) if made.get(k) != asked.get(k)), None)
    advice = "give another --out, or --overwrite"
    if state.there:  # a run that was to replace it was killed
        advice = f"--resume --overwrite goes on with the interrupted run in {state.folder}"
    if key:
        raise Usage(
            f"{out} holds a finished run with {key} {made.get(key)!r}, not {asked.get(key)!r}: "
            f"{advice}"
        )
    if read is None or read.inputs != inputs:
        raise Usage(
            f"{changed(read and read.inputs, inputs)} is not the file that the finished run in "
            f"{out} read: {advice}"
        )
    if speaks():
        state.check_place()
        state.remove()
        log.warning("%s is done already: nothing was left to do", out)
    return found


def done_already(recipe: Recipe, out: Path) -> bool:
    """Whether `--resume` finds a result, which is not to be replaced."""
    free = recipe.output.overwrite or recipe.output.dry_run
    return recipe.training.resume and not free and (out / "report.json").exists()


def check_free(recipe: Recipe, state: State) -> None:
    """Raises Usage for an interrupted run that should neither be resumed nor replaced, and where
    others have files in the place of its state."""
    state.check_place()
    if state.there and not (recipe.training.resume or recipe.output.overwrite):
        raise Usage(
            f"{state.folder} holds an interrupted run: --resume goes on with it, "
            "--overwrite starts again"
        )


def ended_compression(recipe: Recipe, out: Path) -> Report | None:
    """As `ended`, for a compression."""
    if not done_already(recipe, out):
        return None
    folder = Folder.of(recipe.model, recipe.revision)
    empty = checkpoint.empty(folder, recipe.dtype, lambda _: None)
    asked = resolved(recipe, empty)
    recipe = translated(asked, empty)
    if limit_of(asked, empty):  # the keep that it is was found with the losses of the sites
        recipe = as_found(recipe, target_of(asked), read_report(out / "report.json", "compress"))
    return ended(recipe, out, compressing, inputs_of(recipe, folder), Journal(out, {}))


def journal_of(run: Run, recipe: Recipe, out: Path, folder: Folder, inputs: Sums) -> Journal:
    """The journal of a compression into `out`, with what a killed run has left if it is to go on.

    Raises Usage for an interrupted run that should neither be resumed nor replaced, or that was
    another one, and NotLoadable for one that cannot be read.
    """
    journal = Journal(out, identity_of(run.recipe, folder, inputs), inputs)
    check_free(recipe, journal)
    run.kept = partial(_told, journal)
    if not recipe.training.resume:
        return journal
    if journal.there:
        journal.resume()
        run.bars.line(f"going on with the run in {journal.folder}: {_told(journal)}")
    else:
        run.bars.line(f"{journal.folder} holds no interrupted run: this one starts anew")
    return journal


def identity_of(recipe: Recipe, folder: Folder, inputs: Sums) -> dict[str, Any]:
    """What a compression must share with the one that it goes on with."""
    identity = compressing(to_dict(recipe)) | {"tlm": version("tlmtool")}
    if "model" not in inputs:  # it is from the Hub
        identity["input"] = " ".join(each[:12] for each in folder.sums.values())
    return identity


def _told(journal: Journal) -> str:
    """'12 of 24 layers are done'; empty before there is a plan."""
    if journal.plan is None:
        return ""
    every = {site for site, _ in journal.plan["plan"]}
    return f"{len(every & journal.done)} of {len(every)} layers are done"


def compressing(values: dict[str, Any]) -> dict[str, Any]:
    """Of the values of a recipe, by section, those that a resumed compression must share with the
    one that was killed: all but where its result goes, and the memory that it may take."""
    values = spelled(values)
    held = ((key, each) for key, each in values.items() if isinstance(each, dict))
    flat = {key: each for key, each in values.items() if not isinstance(each, dict)}
    flat |= {f"{key}.{leaf}": value for key, each in held for leaf, value in each.items()}
    free = ("output.", "training.resume", "memory")
    return {key: value for key, value in flat.items() if not key.startswith(free)}


def inputs_of(recipe: Recipe, folder: Folder) -> Sums:
    """The sums of what a compression reads. The weights, which its report names too, are read
    once."""
    return sums_of(recipe, known_of(folder.path, folder.sums))
