"""Dense and compressed model side by side, block by block, so that each site is fitted to the
inputs it will really get: what sequential calibration needs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import (
    Moments,
    Running,
    Stop,
    damped,
    hooks,
    product,
    real,
    run,
)
from tlmtool.data.tasks import Batch


class Fit(Moments):
    """Moments of the inputs x that a group of sites gets in the compressed model, and what moves
    the target: `shift` E[(x_dense - x) x^T] (I, I) with its mean, and `residual` E[(r_dense - r)
    x^T] (O, I) with its mean, r being the residual stream that the site's output is added to.
    """

    def __init__(self, count: int, mean: Tensor, second: Tensor, **more: Tensor):
        super().__init__(count, mean, second)
        self.more = more

    def target(
        self, weight: Tensor, bias: Tensor | None, ridge: float
    ) -> tuple[Tensor, Tensor | None]:
        """The map (T (O, I), E[target]) that best gives the dense model's output from x.

        T = W + X (C + ridge mean(diag C) 1)^-1, X = W shift + residual: least squares, drawn
        towards W. Without a bias nothing is centred and the mean is None.
        """
        centred = bias is not None
        cross = 0
        means = [weight @ self.mean + bias if centred else None]
        for name, lift in (("shift", lambda m: weight @ m), ("residual", lambda m: m)):
            if name in self.more:
                moved, by = lift(self.more[name]), lift(self.more[f"{name}_mean"])
                cross = cross + (moved - torch.outer(by, self.mean) if centred else moved)
                means.append(by)
        if isinstance(cross, int):
            return weight, means[0]
        c = damped(self.covariance(centred), ridge)
        solved = torch.cholesky_solve(cross.T, torch.linalg.cholesky(c)).T
        return weight + solved, sum(means) if centred else None


class Lockstep:
    """Walks the blocks of two copies of a model that share everything but the swapped sites."""

    def __init__(self, dense: nn.Module, model: nn.Module, batches: list[Batch]):
        self.pair = (dense, model)
        self.batches = batches
        self.same = True  # until the first swap both give the same
        self.outputs: list[dict[str, list[Any]]] = [{}, {}]  # {stack: output of each batch}
        self.at: dict[str, int] = {}  # {stack: blocks that are done}

    def measure(self, sites: list[str], residual: bool) -> Fit:
        """The moments of a group of sites that read one input, as the models stand now."""
        running = Running()
        for place, batch in enumerate(self.batches):
            x, r = self._observe(1, place, batch, sites[0], residual)
            running.add(len(x), mean=x.float().sum(0), second=product(x, x))
            if self.same:
                continue
            y, s = self._observe(0, place, batch, sites[0], residual)
            moved = y - x
            running.add(0, shift=product(moved, x), shift_mean=moved.float().sum(0))
            if r is not None and s is not None:
                moved = s - r
                running.add(0, residual=product(moved, x), residual_mean=moved.float().sum(0))
        return Fit(running.count, **running.means())

    def advance(self, stack: str) -> None:
        """Run the next block of a stack (the path of a ModuleList) in both and keep its output."""
        for which, model in enumerate(self.pair):
            if which == 1 and self.same:
                self.outputs[1][stack] = self.outputs[0][stack]
                break
            block = model.base_model.get_submodule(stack)[self.at.get(stack, 0)]
            kept: list[Any] = []

            def keep(module: nn.Module, args: tuple, output: Any, kept: list = kept) -> None:
                kept.append(output)
                raise Stop

            for place, batch in enumerate(self.batches):
                with hooks(block.register_forward_hook(keep)), self._stubs(which, place):
                    run(model, batch)
            self.outputs[which][stack] = kept
        self.at[stack] = self.at.get(stack, 0) + 1

    def _observe(
        self, which: int, place: int, batch: Batch, site: str, residual: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Input x (T, I) of a site in one model, and the residual stream (T, O) it is added to:
        the input of the next norm less the site's output."""
        model, got = self.pair[which], {}
        base = model.base_model

        def at_site(module: nn.Module, args: tuple) -> None:
            got["x"] = real(args[0], batch)
            if not residual:
                raise Stop

        def after_site(module: nn.Module, args: tuple, output: Tensor) -> None:
            got["y"] = output

        def at_norm(module: nn.Module, args: tuple) -> None:
            y = got.get("y")
            if y is not None and args and args[0].numel() == y.numel():
                got["r"] = real(args[0].reshape(y.shape) - y, batch)
                raise Stop

        module = base.get_submodule(site)
        handles = [module.register_forward_pre_hook(at_site)]
        if residual:
            norms = [m for m in base.modules() if "Norm" in type(m).__name__]
            handles.append(module.register_forward_hook(after_site))
            handles += [norm.register_forward_pre_hook(at_norm) for norm in norms]
        with hooks(*handles), self._stubs(which, place):
            run(model, batch)
        return got["x"], got.get("r")

    @contextmanager
    def _stubs(self, which: int, place: int) -> Iterator[None]:
        """Blocks that are done hand on the kept output of the last of them instead of running."""
        with ExitStack() as stack:
            for path, done in self.at.items():
                if not done:
                    continue
                output = self.outputs[which][path][place]
                for block in self.pair[which].base_model.get_submodule(path)[:done]:
                    block.forward = _constant(output)
                    stack.callback(block.__dict__.pop, "forward")
            yield


def _constant(output: Any) -> Callable:
    return lambda *args, **kwargs: output


def stacks_of(model: nn.Module, groups: list[list[str]]) -> list[tuple[str, int, list[str]]]:
    """(path of the ModuleList, index in it, group) in the order of the groups; "" outside one."""
    places = []
    for group in groups:
        parts = group[0].split(".")
        at = next((k for k, part in enumerate(parts) if part.isdigit()), None)
        if at is None:
            places.append(("", 0, group))
        else:
            places.append((".".join(parts[:at]), int(parts[at]), group))
    return places
