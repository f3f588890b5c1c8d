"""The commands that usually come next, with the paths of the run that ends."""

import shlex
import sys
from collections.abc import Iterator
from typing import Any

from tlmtool.recipe.verbs import CHECKPOINTS

MANY = 3  # commands that are suggested; more are not read


def suggest(report: Any) -> None:
    """Prints the next commands on standard error, so that a result in a pipe stays as it is.

    A command with characters that a terminal would obey cannot be typed, and is left out."""
    from tlmtool.report.printable import printable

    commands = (shlex.join(words) for words in following(report))
    found = [command for command in commands if printable(command) == command][:MANY]
    for place, command in enumerate(found):
        print(f"{'next' if place == 0 else '':12} {command}", file=sys.stderr)
    if found:
        sys.stderr.flush()


def following(report: Any) -> Iterator[list[str]]:
    """The next commands after a report, each as words, the most useful first; none after one that
    wrote no model."""
    from tlmtool.report.parts.ending import Predicted
    from tlmtool.report.parts.model import Model
    from tlmtool.report.parts.study import Study

    model = report.part(Model)
    written = model is not None and model.out and not report.part(Predicted)
    if not written or report.verb not in CHECKPOINTS:
        return
    made = _of_a_front(report)
    if made or report.part(Study):  # this folder holds several results
        yield ["tlm", "compare", model.out]
        if not made:
            return
    out = made[0] if made else model.out
    source, causal = model.id or "", _causal(model.class_ or "")
    original = [source] if source and not model.new else []
    if causal:
        yield ["tlm", "generate", out, *(["--against", *original] if original else [])]
    if report.verb in ("compress", "quantize", "merge") and original:
        task = (
            ["--task", "perplexity"] if causal else ["--task", "features", "--against", *original]
        )
        yield ["tlm", "evaluate", out, *task, *(["--baseline", *original] if causal else [])]
    if report.verb == "compress" and not _rounded(report):
        yield ["tlm", "quantize", out, "--bits", "8"]
    if report.verb in ("finetune", "overparam"):
        yield ["tlm", "merge", out]
    yield ["tlm", "export", out, "--to", "onnx"]
    yield ["tlm", "profile", out, *(["--against", *original] if original else []), "--latency"]
    yield ["tlm", "info", out]


def _of_a_front(report: Any) -> list[str]:
    """The checkpoints of several budgets, the largest first; none where one budget was taken."""
    from tlmtool.report.parts.front import Front

    front = report.part(Front)
    if front is None or any(point.taken for point in front.points):
        return []
    return [point.out for point in front.points if point.out and not point.failed]


def _causal(kind: str) -> bool:
    """Whether a class generates text, by its name."""
    return kind.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))


def _rounded(report: Any) -> bool:
    from tlmtool.report.parts.quantization import Quantization

    return report.part(Quantization) is not None
