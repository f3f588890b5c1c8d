"""What sites read, and what they give to the residual stream, seen by hooks in forward passes."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import real
from tlmtool.compression.walking import Stop, Walk, aligned


class Watch(AbstractContextManager):
    """Shows x (T, I), the input of each site, in passes that end as soon as all has been seen.

    `wanted`: {site: whether its output y (T, O) in the residual stream is shown too}. That is the
    input of the next norm, or the output alone if no norm follows. With a `block` the pass goes on
    to the end of it, and `output` is what it gave. Without `once` a site may be called several
    times in a pass, which goes to the end; x is then of all its calls.
    """

    def __init__(
        self, walk: Walk, wanted: dict[str, bool], block: nn.Module | None = None, once: bool = True
    ):
        self.walk, self.wanted, self.block, self.once = walk, wanted, block, once
        self.handles: list[Any] = []
        self.output: Any = None

    def __enter__(self) -> "Watch":
        base = self.walk.model.base_model
        for site, residual in self.wanted.items():
            module = base.get_submodule(site)
            self.handles.append(module.register_forward_pre_hook(self._before(site)))
            if residual:
                self.handles.append(module.register_forward_hook(self._after(site)))
        if any(self.wanted.values()):
            norms = [module for module in base.modules() if "Norm" in type(module).__name__]
            self.handles += [norm.register_forward_pre_hook(self._at_norm) for norm in norms]
        if self.block is not None:
            self.handles.append(self.block.register_forward_hook(self._at_end))
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def __call__(self, place: int) -> dict[str, list[Tensor]]:
        """{site: [x] or [x, y]} of a batch."""
        self.batch = self.walk.batches[place]
        self.inputs: dict[str, list[Tensor]] = {site: [] for site in self.wanted}
        self.streams: dict[str, Tensor] = {}
        self.alone: dict[str, int] = {}  # {site whose output no norm has read yet: its numbers}
        self.unseen, self.ended = {*self.wanted}, self.block is None
        self.walk.run(place)
        return {
            site: [torch.cat(self.inputs[site]), *([self.streams[site]] if residual else [])]
            for site, residual in self.wanted.items()
        }

    def _seen(self, *sites: str) -> None:
        """Note sites of which all has been seen. Raises Stop after the last one."""
        self.unseen.difference_update(sites)
        if self.once and self.ended and not self.unseen:
            raise Stop

    def _before(self, site: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            if aligned(args[0], self.batch):
                self.inputs[site].append(real(args[0], self.batch))
            if not self.wanted[site]:
                self._seen(site)

        return hook

    def _after(self, site: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            self.streams[site] = real(output, self.batch)
            self.alone[site] = output.numel()

        return hook

    def _at_norm(self, module: nn.Module, args: tuple) -> None:
        reached = [s for s, size in self.alone.items() if args and args[0].numel() == size]
        for site in reached:
            self.streams[site] = real(args[0], self.batch)
            del self.alone[site]
        if reached:
            self._seen(*reached)

    def _at_end(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.output, self.ended = output, True
        self._seen()
