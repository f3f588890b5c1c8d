"""Rounding a model to few bits within a command, and what 8 bits alone do to the dense one."""

from typing import Any

from tlmtool.commands.comparing import Comparison
from tlmtool.commands.run import Run
from tlmtool.failure import Usage
from tlmtool.measuring.counting import count_parameters
from tlmtool.models.modeling import adopt
from tlmtool.models.packing import Packed, pack
from tlmtool.models.quantized import check_installed
from tlmtool.models.quantizing import Chosen, choose, rounded_for_now, stored_bytes
from tlmtool.models.streaming import streamed
from tlmtool.report.figures import human
from tlmtool.report.layout import Part
from tlmtool.report.parts.int8 import Int8
from tlmtool.report.parts.quantization import Quantization

NAMED = 3  # weights that stay floats which a warning names


def check(run: Run) -> None:
    """Raises MissingDependency where `--bits` cannot be done, before any work."""
    if run.recipe.quantization.bits is not None:
        check_installed("--bits")


def quantized(run: Run, model: Any, parts: list[Part], warnings: list[str]) -> Packed | None:
    """Round the weights of a model as `--bits` says, in place; adds what became of them to the
    parts and the warnings of the report. None without `--bits`.

    Raises Usage for a model that is streamed, as the rounded weights would fill the memory.
    """
    wanted = run.recipe.quantization
    if wanted.bits is None:
        return None
    if streamed(model) is not None:
        raise Usage(
            "--bits needs the weights in memory, and this model is too large for that: compress "
            "without --bits, then give the result to tlm quantize"
        )
    chosen = choose(model, wanted.bits, wanted.embedding_bits)
    if not chosen.widths:
        raise Usage(f"{run.recipe.model} has no weight that can be stored in {wanted.bits} bits")
    if not chosen.plain:
        adopt(model)  # its config says how to load it
    run.bars("rounding", 0, 1)
    with run.stage("round"):
        packed = pack(model, chosen)
    parts.append(_part(model, chosen))
    warnings += _left(model, chosen)
    return packed


def int8_beside(run: Run, model: Any, before: Comparison | None) -> list[Part]:
    """The part on the dense model with 8 bits alone: its size, and its quality on the same text."""
    chosen = choose(model, 8)
    size = stored_bytes(model, chosen)
    more: dict[str, Any] = {"not_measured": None}
    if before is None:
        more["not_measured"] = "its loss is not measured, since there is no tokenizer"
    elif streamed(model) is not None:
        more["not_measured"] = (
            "its loss is not measured, since the weights stay in their files and a rounded copy "
            "does not fit in memory"
        )
    else:
        with run.stage("measure"), rounded_for_now(model, chosen):
            before.quality.progress = run.bars.of("measuring int8")
            more["value"] = before.quality.compared(model).after
    bits = 8 * size / count_parameters(model)
    return [Int8(file_bytes=size, bits_per_weight=bits, **more)]


def _part(model: Any, chosen: Chosen) -> Quantization:
    rounded = sum(model.get_parameter(name).numel() for name in chosen.widths)
    return Quantization(
        bits=chosen.bits,
        embedding_bits=chosen.embedding,
        rounded=rounded,
        left=count_parameters(model) - rounded,
        stored_bytes=stored_bytes(model, chosen),
        plain=chosen.plain,
    )


def _left(model: Any, chosen: Chosen) -> list[str]:
    """A warning of the matrices that stay floats, where there are any."""
    if not chosen.left:
        return []
    numbers = sum(model.get_parameter(name).numel() for name in chosen.left)
    some = ", ".join(chosen.left[:NAMED]) + (" ..." if chosen.left[NAMED:] else "")
    return [
        f"{len(chosen.left)} weights with {human(numbers)} numbers stay floats: they are no "
        f"matrices of linear layers, or too narrow for a group ({some})"
    ]
