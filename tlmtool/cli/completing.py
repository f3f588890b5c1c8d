"""What a shell completes: the values of flags, and the names of models, without slow imports."""

import os
from collections.abc import Callable

from tlmtool.recipe.setting import Setting

SITES = ("attention", "ffn", "embedding", "all", "linears")  # groups that --sites and others take
DEVICES = ("auto", "cpu", "cuda", "mps")
ASKS = "_TLM_COMPLETE"  # the variable by which the shell asks


def line_to_complete() -> list[str]:
    """The words of the line that the shell asks about; none where it does not ask."""
    if ASKS not in os.environ:
        return []
    lines = (os.environ.get(name, "") for name in ("COMP_WORDS", "_TYPER_COMPLETE_ARGS"))
    return " ".join(lines).split()


def models(incomplete: str) -> list[str]:
    """The models with a name that begin so; where none does, the shell completes paths."""
    from tlmtool.models.known import NAMES

    return [name for name in NAMES if name.startswith(incomplete)]


def completing(setting: Setting) -> Callable[[str], list[str]] | None:
    """What completes the values of a flag, or the last of several; None where any value will do."""
    if setting.reads == "model":
        return models
    choices = setting.rules.get("choices")
    if setting.path.endswith(".sites"):
        choices = SITES
    if setting.path == "device":
        choices = DEVICES
    if choices is None:
        return None

    def complete(incomplete: str) -> list[str]:
        begun, comma, last = incomplete.rpartition(",")
        names = map(str, choices() if callable(choices) else choices)
        return [f"{begun}{comma}{name}" for name in names if name.startswith(last)]

    return complete
