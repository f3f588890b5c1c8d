"""FSDP: parameters in training, their gradients and their moments lie in shards over processes.

Each process also has the whole model, with the weights of the last `gather`; that one is measured
and saved. torch's `fully_shard` is called here and not by accelerate, which supports it on GPUs
alone. Of an accelerate launch, only the wish for FSDP is read, and none of its FSDP settings.
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
FIRST_ALONE = "FSDP_CPU_RAM_EFFICIENT_LOADING"  # makes transformers load weights in one process


def asked() -> bool:
    """Whether several processes were launched with FSDP."""
    return on(FSDP) and processes() > 1


def on(name: str) -> bool:
    """Whether a launch by accelerate asks for this. Raises Usage for what is neither yes nor no."""
    try:
        return bool(os.environ.get(name)) and bool(parse_flag_from_env(name))
    except ValueError as error:  # accelerate cannot read it either
        raise Usage(f"{name}: {error}") from None


@contextmanager
def unsaid() -> Iterator[None]:
    """Hide the wish for FSDP from accelerate, which then sees processes of DDP. From here on, each
    process loads the weights."""
    kept = os.environ.pop(FSDP, None)
    os.environ.pop(FIRST_ALONE, None)
    try:
        yield
    finally:
        if kept is not None:
            os.environ[FSDP] = kept


class Sharded(nn.Module):
    """Wraps a copy of a model, as DDP wraps a model: each block lies in shards over all processes,
    and so does the rest.

    `fully_shard` changes the class of the module that it is given. transformers finds out by the
    class of a model which hidden states it has, so that the wrapper is given and not the model.
    """

    def __init__(self, accelerator: Accelerator, model: nn.Module):
        super().__init__()
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        self.module = copy.deepcopy(model).to(accelerator.device)
        for part in self.module.parameters():  # everyone starts from the first process, as in DDP
            broadcast(part.data, 0)
        lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
        for name in lists:
            if not any(name.startswith(f"{other}.") for other in lists):  # no list within a block
                for block in self.module.get_submodule(name):
                    fully_shard(block, mesh=mesh)
        fully_shard(self, mesh=mesh)

    def forward(self, *args: Any, **inputs: Any) -> Any:
        return self.module(*args, **inputs)


def whole(value: Any) -> Any:
    """The tensor that shards make up, in main memory; anything else as it is. Every process must
    call it."""
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of `other`, in shards where `other` has its shape and is."""
    value = value.to(other.device)
    if isinstance(other, DTensor) and value.shape == other.shape:
        return distribute_tensor(value, other.device_mesh, other.placements)
    return value


@torch.no_grad()
def gather(model: nn.Module, live: nn.Module) -> None:
    """Copy the weights of what is trained into the model, where these are two, on every process."""
    if live is not model:
        for own, part in zip(model.parameters(), live.parameters(), strict=True):
            own.copy_(part.full_tensor())


@torch.no_grad()
def scatter(model: nn.Module, live: nn.Module) -> None:
    """Copy the weights of the model into what is trained, where these are two."""
    if live is not model:
        for own, part in zip(model.parameters(), live.parameters(), strict=True):
            part.copy_(like(own, part))
