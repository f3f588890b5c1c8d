"""The schema of an export: the format that other programs open."""

from dataclasses import dataclass

from tlmtool.recipe.registries import registered
from tlmtool.recipe.setting import setting

_ADAPTER = "write an adapter with `tlm repair MODEL --against ORIGINAL`, which loads in peft"
_PLAIN = "write plain weights as safetensors with `tlm merge MODEL`"
_ITSELF = "vLLM opens the checkpoint itself, with `vllm serve MODEL` where tlmtool is installed"
INSTEAD = {  # {what people type for a format: what tlm has in its place}
    **dict.fromkeys(("lora", "adapter", "peft"), _ADAPTER),
    **dict.fromkeys(("safetensors", "transformers", "hf"), _PLAIN),
    "vllm": _ITSELF,
    "llama.cpp": "use --to gguf, which is what it opens",
}


def targets() -> dict[str, str]:
    """{name: first line of its docstring}."""
    return registered("exporting")


@dataclass(frozen=True)
class Export:
    """What is written, and in which format."""

    to: str | None = setting(
        None,
        "export",
        "Format to write, from the list below",
        "NAME",
        choices=targets,
        instead=INSTEAD,
    )
