"""The key `launch` of a stage: what starts it in several processes."""

import shlex
from typing import Any

from tlmtool.failure import Usage, show

MODULES = {  # {program: its module, which is run by the Python that runs tlm}
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.accelerate_cli",
}
EXAMPLE = "torchrun --nproc_per_node 2"


def launch_of(given: Any, verb: str, where: str) -> tuple[str, ...]:
    """The words of `launch`; none where a stage has no such key. Raises Usage for what starts no
    processes, and for a verb that runs in one process."""
    if given is None:
        return ()
    try:
        words = shlex.split(given) if isinstance(given, str) else [str(each) for each in given]
    except (TypeError, ValueError):
        words = []
    if (
        not words
        or words[0] not in MODULES
        or (words[0] == "accelerate") != (words[1:2] == ["launch"])
    ):
        raise Usage(
            f"launch in {where} is {show(given)}: it should begin with torchrun or accelerate "
            f"launch, such as {EXAMPLE}"
        )
    if verb != "finetune":
        raise Usage(f"launch in {where}: {verb} runs in one process, only finetune in several")
    return tuple(words)
