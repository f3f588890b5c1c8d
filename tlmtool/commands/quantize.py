"""The verb quantize: Recipe -> Report."""

from tlmtool.commands.calibrating import TEXT, material_of, resolved
from tlmtool.commands.comparing import Comparison
from tlmtool.commands.costs import Costs
from tlmtool.commands.provenance import provenance
from tlmtool.commands.quantizing import check, quantized
from tlmtool.commands.run import Run, out_folder
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.report.layout import Part
from tlmtool.report.report import Report


def quantize(recipe: Recipe) -> Report:
    """Round the weights of a checkpoint to 8 or 4 bits, measure it before and after, and write it.

    Without a tokenizer nothing is measured, and a warning says so.
    """
    out = out_folder(recipe, f"{recipe.quantization.bits}bit")
    folder = Folder.of(recipe.model, recipe.revision)
    with Run(recipe) as run, PeakMemory(checkpoint.device_of(recipe.device)) as memory:
        check(run)
        empty = run.empty(folder)
        wanted = resolved(recipe, empty)
        tokenizer = checkpoint.load_tokenizer(folder)
        held = material_of(wanted, empty, tokenizer, None).held if tokenizer else []
        model = run.load(folder)
        source, warnings, parts = provenance(recipe, folder, model, out), list[str](), list[Part]()
        costs = Costs(model)
        before = None
        if tokenizer:
            length = wanted.calibration.max_length or TEXT
            before = Comparison(run, model, tokenizer, held, length)
        else:
            warnings.append(f"{recipe.model} has no tokenizer: no loss is measured")
        packed = quantized(run, model, parts, warnings)
        measured = list[Part]()
        if before:
            warnings = before.told(model, measured, warnings)
        parts = [source, *costs.and_after(model), *measured, *parts]
    return run.save(model, folder, out, parts, warnings, memory.bytes, packed)
