"""The verb repair: Recipe -> Report."""

from pathlib import Path
from typing import Any

from tlmtool.commands.calibrating import TEXT, Material, material_of, resolved
from tlmtool.commands.provenance import provenance
from tlmtool.commands.run import WRITTEN, Run, out_folder
from tlmtool.compression.calibration import prepared
from tlmtool.compression.compress import TOKENS
from tlmtool.compression.repairing import differing, repaired
from tlmtool.failure import Usage
from tlmtool.files.writing import whole_folder
from tlmtool.measuring.comparison import Quality
from tlmtool.measuring.outputs import relative_error
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.measuring.rises import in_windows
from tlmtool.models import checkpoint
from tlmtool.models.adapter import CONFIG, WEIGHTS, Adapter, stored_dtype
from tlmtool.models.folder import Folder
from tlmtool.models.kernels import converted
from tlmtool.models.replacing import check_out, foreign_to_export
from tlmtool.recipe import building
from tlmtool.recipe.building import Recipe
from tlmtool.report.adapter_card import adapter_card
from tlmtool.report.parts.ending import Files
from tlmtool.report.parts.repair import MEGABYTE, Repair
from tlmtool.report.report import Report


def repair(recipe: Recipe) -> Report:
    """Write a LoRA adapter that brings a compressed or quantized model nearer to its original, and
    measure the model with it and without.

    Without a tokenizer all errors of a weight count the same and nothing is measured; a warning
    says so.
    """
    out = out_folder(recipe, "adapter", foreign=foreign_to_export)
    folder, other = Folder.of(recipe.model, recipe.revision), Folder.of(recipe.repair.against or "")
    with Run(recipe) as run, PeakMemory(checkpoint.device_of(recipe.device)) as memory:
        empty = run.empty(folder)
        wanted = resolved(recipe, empty)
        tokenizer = checkpoint.load_tokenizer(folder)
        material = material_of(wanted, empty, tokenizer, None) if tokenizer else Material()
        model, original = run.load(folder), run.load(other)
        roles = _roles(run, model, original, folder, other)
        length = wanted.calibration.max_length or TEXT
        measured = tokenizer and _Measured(run, model, original, tokenizer, material, length)
        batches = []
        if material.texts:
            batches = prepared(model, tokenizer, material.texts, length, TOKENS)
        dtype = stored_dtype(model, recipe.dtype)
        with run.stage("repair"):
            adapter = repaired(
                model,
                original,
                roles,
                batches,
                recipe.repair.rank,
                dtype,
                recipe.repair.fit == "sequential",
                run.bars,
            )
        figures = measured.after(adapter) if measured else {}
        if not tokenizer:
            run.warn(f"{recipe.model} has no tokenizer: no text weighs errors, and no loss is told")
        parts = [provenance(recipe, folder, model, out), material.part]
        sizes = {"model_bytes": folder.file_bytes, "original_bytes": other.file_bytes}
    return _written(run, adapter, model, out, parts, sizes | figures, material, memory.bytes)


def _roles(run: Run, model: Any, original: Any, folder: Folder, other: Folder) -> dict[str, str]:
    """The sites to repair; raises Usage where there is none."""
    found = differing(model, original)
    if any(converted(model)):
        run.warn("layers of tensor attention compute something else: the adapter leaves that")
    if not found:
        raise Usage(
            f"no linear layer of {folder.asked} differs from {other.asked} in its weight, so there "
            "is nothing to repair; embeddings and narrower MLPs are not repaired"
        )
    return found


class _Measured:
    """The original and the model before, measured when this is made, and later with an adapter."""

    def __init__(
        self, run: Run, model: Any, original: Any, tokenizer: Any, material: Material, length: int
    ):
        self.run, self.model = run, model
        with run.stage("measure"):
            seed, bar = run.recipe.seed, run.bars.of("measuring original")
            self.quality = Quality(original, tokenizer, material.held, length, seed, bar)
            self.quality.progress = run.bars.of("measuring before")
            self.before = self.quality.measured(model)

    def after(self, adapter: Adapter) -> dict[str, Any]:
        """What the part `repair` says of the quality."""
        quality, interval = self.quality, None
        with self.run.stage("measure"), adapter.attached(self.model):
            quality.progress = self.run.bars.of("measuring after")
            after = quality.measured(self.model)
        told = quality.compared(self.model, after)
        if quality.objective is None:
            values = [relative_error(x, quality.before) for x in (self.before, after)]
            values.insert(0, 0.0)
        else:
            values = [each.mean for each in (quality.before, self.before, after)]
        if quality.objective == "clm":
            nats = in_windows(self.before, after, quality.seed).nats
            interval = nats.interval if nats else None
        found = dict(zip(("original", "before", "after"), values, strict=True))
        ends = interval and (-interval[1], -interval[0])
        return found | {"name": told.name, "what": told.what, "won_interval": ends}


def _written(
    run: Run,
    adapter: Adapter,
    model: Any,
    out: Path,
    parts: list[Any],
    figures: dict[str, Any],
    material: Material,
    peak: int | None,
) -> Report:
    """Write the adapter with its report, card and recipe; returns the report."""

    def check() -> None:
        check_out(out, run.recipe.output.overwrite, foreign_to_export)

    check()
    run.bars("saving", 0, 1)
    with whole_folder(out, check) as new:
        with run.stage("save"):
            size = adapter.write(model, str(run.recipe.model), new)
        won = figures["before"] - figures["after"] if "before" in figures else None
        found = Repair(
            rank=adapter.rank,
            sites=len(adapter.pairs),
            parameters=sum(a.numel() + b.numel() for a, b in adapter.pairs.values()),
            adapter_bytes=size,
            won=won,
            won_per_mb=None if won is None else won * MEGABYTE / size,
            **figures,
        )
        listed = Files(files=tuple(sorted({CONFIG, WEIGHTS, *WRITTEN})))
        report = run.report([*parts, found, listed], material.warnings, peak)
        texts = {
            "report.json": report.to_json() + "\n",
            "README.md": adapter_card(report, out.name),
            "recipe.yaml": building.dump(run.recipe),
        }
        for name, text in texts.items():
            (new / name).write_text(text, encoding="utf-8")
    return report
