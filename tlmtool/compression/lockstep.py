"""Dense and compressed model side by side, block by block, for sequential calibration.

Each site can then be fitted to the inputs that it will really get.
"""

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import Moments, Running, damp_, product, real
from tlmtool.compression.walking import Stop, Walk, aligned, hooks
from tlmtool.data.batching import Batch


class Fit(Moments):
    """Moments of the inputs x that a group of sites gets in the compressed model, with a target.

    The target differs from W by `shift` E[(x_dense - x) x^T] (I, I), or by `gap`
    E[(y_dense - y) x^T] (O, I). There y is the output with the residual stream added. Each comes
    with its mean.
    """

    def __init__(self, count: int, mean: Tensor, second: Tensor, **more: Tensor):
        super().__init__(count, mean, second)
        self.more = more
        self._moved: dict[bool, Tensor] = {}  # of all sites of the group, centred or not

    def release(self) -> None:
        """Free all but the mean."""
        self.second, self.more, self._moved = torch.empty(0), {}, {}

    def target(
        self, weight: Tensor, bias: Tensor | None, ridge: float
    ) -> tuple[Tensor, Tensor | None]:
        """(T (O, I), E[target]): the map that best gives the dense model's output from x.

        T = W + X (C + ridge mean(diag C) 1)^-1 with X = W shift or gap: least squares, pulled
        towards W. Without a bias nothing is centred, and the mean is None.
        """
        centred = bias is not None
        mean = weight @ self.mean + bias if centred else None
        if not self.more:
            return weight, mean
        if "gap" not in self.more:  # X = W shift: what follows W is the same for every site
            mean = mean + weight @ self.more["shift_mean"] if centred else None
            if centred not in self._moved:
                self._moved[centred] = self._solve("shift", centred, ridge)
            return weight.addmm(weight, self._moved[centred]), mean
        mean = mean + self.more["gap_mean"] if centred else None
        return weight + self._solve("gap", centred, ridge), mean

    def _solve(self, name: str, centred: bool, ridge: float) -> Tensor:
        """X (C + ridge mean(diag C) 1)^-1 of X = shift or gap."""
        cross = torch.addr(
            self.more[name], self.more[f"{name}_mean"], self.mean, alpha=-float(centred)
        )
        factor = torch.linalg.cholesky(damp_(self.covariance(centred), ridge))
        return torch.cholesky_solve(cross.mT, factor).mT


class Lockstep:
    """Walks the blocks of two copies of a model that share everything but the swapped sites."""

    def __init__(self, dense: nn.Module, model: nn.Module, batches: list[Batch]):
        self.pair = (Walk(dense, batches), Walk(model, batches))
        self.here = self.pair  # outside of blocks a pair in which every block runs
        self.same = True  # until the first swap both give the same outputs

    def reach(self, stack: str, index: int) -> None:
        """Stand before a block of a stack in both models; "" for outside of blocks."""
        dense, ours = self.here = self.pair
        if not stack:
            self.here = Walk(dense.model, dense.batches), Walk(ours.model, ours.batches)
            return
        dense.reach(stack, index)
        if self.same:
            ours.at, ours.outputs = dict(dense.at), dict(dense.outputs)
        else:
            ours.reach(stack, index)

    def measure(self, sites: list[str], residual: bool, once: bool = True) -> Fit:
        """The moments of a group of sites that read one input, as the models are now.

        With `residual`, for a group of one site, also those of its output in the residual stream.
        `once`: whether it is called once in a pass; otherwise all inputs count, and no output.
        """
        running, residual = Running(), residual and once
        dense, ours = self.here
        for place in range(len(ours.batches)):
            x, y = _observe(ours, place, sites[0], residual, once)
            running.add(len(x), mean=x.float().sum(0), second=product(x, x))
            if self.same:
                continue
            x_dense, y_dense = _observe(dense, place, sites[0], residual, once)
            name, moved = ("gap", y_dense - y) if residual else ("shift", x_dense - x)
            moments = {name: product(moved, x), f"{name}_mean": moved.float().sum(0)}
            running.add(0, **moments)
        return Fit(running.count, **running.means())


def _observe(
    walk: Walk, place: int, site: str, residual: bool, once: bool
) -> tuple[Tensor, Tensor | None]:
    """The input x (T, I) of a site, of all its calls, and its output (T, O) in the residual stream.

    The latter is the input of the next norm, or the output alone if no norm follows.
    """
    got, batch, base = {}, walk.batches[place], walk.model.base_model
    inputs: list[Tensor] = []

    def at_site(module: nn.Module, args: tuple) -> None:
        if aligned(args[0], batch):
            inputs.append(real(args[0], batch))
        if once and not residual:
            raise Stop

    def after_site(module: nn.Module, args: tuple, output: Tensor) -> None:
        got["y"] = output

    def at_norm(module: nn.Module, args: tuple) -> None:
        y = got.get("y")
        if y is not None and args and args[0].numel() == y.numel():
            got["y"] = args[0]
            raise Stop

    module = base.get_submodule(site)
    handles = [module.register_forward_pre_hook(at_site)]
    if residual:
        norms = [m for m in base.modules() if "Norm" in type(m).__name__]
        handles.append(module.register_forward_hook(after_site))
        handles += [norm.register_forward_pre_hook(at_norm) for norm in norms]
    with hooks(*handles):
        walk.run(place)
    return torch.cat(inputs), real(got["y"], batch) if residual else None
