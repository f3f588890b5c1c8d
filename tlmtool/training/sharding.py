"""FSDP: what is trained lies in shards over the processes, gradients and moments with it.

The model itself stays whole on each process, its weights those of the last `gather`: it is what is
measured, kept and saved. torch's `fully_shard` is called here, not by accelerate, which makes it
with accelerators only; of accelerate's launch the wish for FSDP is read, not its other settings.
"""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.distributed import broadcast
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tlmtool.failure import Usage, processes

FSDP = "ACCELERATE_USE_FSDP"
FIRST_ALONE = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # loads weights: transformers would obey


def asked() -> bool:
    """Whether there are processes to share the weights, and they were launched to do so."""
    return on(FSDP) and processes() > 1


def on(name: str) -> bool:
    """Whether a launch by accelerate asks for this. Raises Usage for what is no yes or no."""
    try:
        return bool(os.environ.get(name)) and bool(parse_flag_from_env(name))
    except ValueError as error:  # which accelerate does not read either
        raise Usage(f"{name}: {error}") from None


@contextmanager
def unsaid() -> Iterator[None]:
    """accelerate is not told of FSDP: to it the processes are those of DDP. From here on each of
    them loads the weights."""
    kept = os.environ.pop(FSDP, None)
    os.environ.pop(FIRST_ALONE, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[FSDP] = kept


class Sharded(nn.Module):
    """Around a copy of a model, as DDP is around it: each block lies in shards over all processes,
    and so does the rest. Around, as `fully_shard` changes the class of what it is given, by which
    transformers knows what hidden states a model has."""

    def __init__(self, accelerator: Accelerator, model: nn.Module):
        super().__init__()
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self.module = copy.deepcopy(model).to(accelerator.device)
        for part in self.module.parameters():  # of the first process, as in DDP
            broadcast(part.data, 0)
        lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
        for name in lists:
            if not any(name.startswith(f"{other}.") for other in lists):  # which is in a block
                for block in self.module.get_submodule(name):
                    fully_shard(block, mesh=mesh)
        fully_shard(self, mesh=mesh)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        return self.module(*args, **inputs)


def whole(value: Any) -> Any:
    """A tensor of all its shards, in main memory; anything else as it is. To be called on every
    process."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor in shards, where `other` of its shape is so, and on its device."""
    value = value.to(other.device)
    if isinstance(other, DTensor) and value.shape == other.shape:
        return distribute_tensor(value, other.device_mesh, other.placements)
    return value


@torch.no_grad()
def gather(model: nn.Module, live: nn.Module) -> None:
    """The weights of what is trained into the model, where that is another, on every process."""
    if live is not model:
        for own, part in zip(model.parameters(), live.parameters(), strict=True):
            own.copy_(part.full_tensor())


@torch.no_grad()
def scatter(model: nn.Module, live: nn.Module) -> None:
    """The weights of the model into what is trained, where that is another."""
    if live is not model:
        for own, part in zip(model.parameters(), live.parameters(), strict=True):
            part.copy_(like(own, part))
