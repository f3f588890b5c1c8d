"""The verb export: Recipe -> Report."""

from pathlib import Path

from tlmtool.commands.provenance import provenance
from tlmtool.commands.run import Run, bits_per_weight, out_folder
from tlmtool.exporting import named
from tlmtool.exporting.base import Job, Target, bytes_of
from tlmtool.files.writing import whole_folder
from tlmtool.measuring.counting import count_parameters
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models.folder import Folder
from tlmtool.models.replacing import check_out, foreign_to_export
from tlmtool.recipe import building as recipes
from tlmtool.recipe.building import Recipe
from tlmtool.report.layout import Part
from tlmtool.report.parts.costs import FileBytes
from tlmtool.report.parts.ending import Files, Predicted
from tlmtool.report.parts.exported import Exported
from tlmtool.report.report import Report

BESIDE = {"README.md", "recipe.yaml", "report.json"}  # in every result


def export(recipe: Recipe) -> Report:
    """Write a model in a format that other programs open, with its report, card and recipe.

    Nothing is left on disk where the file does not compute what the model computes.
    """
    target = named(str(recipe.export.to))
    target.check_installed()
    out = out_folder(recipe, str(recipe.export.to), foreign=foreign_to_export)
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run:
        empty = run.empty(folder)
        expected = target.expected(recipe, folder, empty)
        if recipe.output.dry_run:
            source = provenance(recipe, folder, empty, None, sums=False)
            return run.report([source, expected, Predicted(predicted=True)])
        for text in folder.beside[1]:
            run.warn(text)
        return _written(run, target, expected, folder, out)


def _written(run: Run, target: Target, expected: Exported, folder: Folder, out: Path) -> Report:
    """Write the result, whole or not at all, and return its report."""
    recipe = run.recipe
    dtype = target.dtype if recipe.dtype == "auto" else recipe.dtype

    def load(named: Folder) -> object:
        return run.load(named, dtype)

    def check() -> None:
        check_out(out, recipe.output.overwrite, foreign_to_export)

    with whole_folder(out, check) as new:
        with PeakMemory() as memory:
            model = load(folder)
            job = Job(model, folder, recipe, new, run.stage, load, run.bars, run.warn)
            parts: list[Part] = [provenance(recipe, folder, model, out)]
            parts += target.write(job, expected)
        with run.stage("save"):
            after = bytes_of(new, expected.file)
            files = {f.relative_to(new).as_posix() for f in new.rglob("*") if f.is_file()}
        before, counted = folder.file_bytes, count_parameters(model)
        size = FileBytes(
            before=before,
            after=after,
            bits_per_weight_before=bits_per_weight(before, counted),
            bits_per_weight_after=bits_per_weight(after, counted),
        )
        parts.insert(1, size)
        listed = Files(files=tuple(sorted(files | BESIDE)))
        report = run.report([*parts, listed], peak=memory.bytes)
        texts = {"report.json": report.to_json() + "\n", "README.md": report.card(out.name)}
        for name, content in (texts | {"recipe.yaml": recipes.dump(recipe)}).items():
            (new / name).write_text(content, encoding="utf-8")
    return report
