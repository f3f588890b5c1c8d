"""Dense and compressed model side by side, block by block, for sequential calibration.

Each site can then be fitted to the inputs that it will really get.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.compression.calibration import Moments, Running, Shelf, cholesky_, damp_, product
from tlmtool.compression.shelving import Row
from tlmtool.compression.walking import Walk
from tlmtool.compression.watching import Watch
from tlmtool.data.batching import Batch

ROOM = 512 * 2**20  # bytes of a dense block's inputs kept in memory; the rest goes to disk
AT_ONCE = 1024  # rows of a target that are solved together


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
        cross = self.more[name].to(torch.float64, copy=True)
        if centred:
            cross.addr_(self.more[f"{name}_mean"], self.mean, alpha=-1)
        factor = cholesky_(damp_(self.covariance(centred), ridge))
        for rows in cross.split(AT_ONCE):  # in place: a whole solution would be two more copies
            half = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
            rows.copy_(torch.linalg.solve_triangular(factor.mT, half, upper=True).mT)
        return cross


class Lockstep:
    """Walks the blocks of two copies of a model that share everything but the swapped sites."""

    def __init__(self, dense: nn.Module, model: nn.Module, batches: list[Batch]):
        self.pair = (Walk(dense, batches), Walk(model, batches))
        self.here = self.pair  # outside of blocks a pair in which every block runs
        self.same = True  # until the first swap both give the same outputs
        self.at = ("", 0)  # the block ahead: its stack and index
        self.left: list[list[str]] = []  # its groups that are not measured yet
        self.done: list[str] = []  # its sites that are
        self.shelf: Shelf | None = None  # what its groups read in the dense model, by batch

    def reach(self, stack: str, index: int) -> None:
        """Stand before a block of a stack in both models; "" for outside of blocks."""
        dense, ours = self.here = self.pair
        if not stack:
            self.here = Walk(dense.model, dense.batches), Walk(ours.model, ours.batches)
        elif self.shelf is None or self.at != (stack, index):
            self.at, self.left, self.done, self.shelf = (stack, index), [], [], None
            dense.reach(stack, index)
            if self.same:
                ours.at, ours.outputs = dict(dense.at), dict(dense.outputs)
            else:
                ours.reach(stack, index)

    def look_ahead(self, groups: list[tuple[list[str], bool]]) -> None:
        """Run the dense block ahead once, and keep what all of its groups of sites read there.

        Each group comes with whether its output in the residual stream is kept as well. The groups
        are then measured in this order, and each is swapped before the next is measured.
        """
        if self.shelf is not None:
            return
        walk, (stack, index) = self.pair[0], self.at
        outputs = Row()
        wanted = {sites[0]: residual for sites, residual in groups}
        self.left, self.shelf = [sites for sites, _ in groups], Shelf(ROOM)
        with Watch(walk, wanted, walk.blocks(stack)[index]) as watch:
            for place in range(len(walk.batches)):
                for site, kept in watch(place).items():
                    self.shelf.put((site, place), kept)
                outputs[place] = watch.output
        walk.outputs[stack] = outputs
        walk.at[stack] = index + 1

    def forget(self, sites: list[str]) -> None:
        """Drop the outputs that are kept of modules that hold these sites, which have changed."""
        inner = self.pair[1].inner
        for path in [p for p in inner if any(f"{s}.".startswith(f"{p}.") for s in sites)]:
            del inner[path]

    def measure(self, sites: list[str], residual: bool, once: bool = True) -> Fit:
        """The moments of a group of sites that read one input, as the models are now.

        With `residual`, for a group of one site, also those of its output in the residual stream.
        `once`: whether it is called once in a pass; otherwise all inputs count, and no output.
        """
        running, residual, site = Running(), residual and once, sites[0]
        dense, ours = self.here
        kept = self.shelf if self.here is self.pair else None
        if kept is not None:
            block = f"{self.at[0]}.{self.at[1]}"
            ours.finish(_finished(ours.model.base_model, block, self.done, self.left))
            self.left.remove(sites)
            self.done += sites
        reading = {site: residual}
        with Watch(ours, reading, once=once) as mine, Watch(dense, reading, once=once) as theirs:
            for place in range(len(ours.batches)):
                x, *y = mine(place)[site]
                running.add(len(x), {"second": x}, mean=x.float().sum(0))
                if self.same:
                    continue
                x_dense, *y_dense = (
                    theirs(place)[site] if kept is None else kept.get((site, place), x.device)
                )
                name, moved = ("gap", y_dense[0] - y[0]) if residual else ("shift", x_dense - x)
                moments = {name: product(moved, x), f"{name}_mean": moved.float().sum(0)}
                running.add(0, **moments)
        if kept is not None and not self.left:
            kept.kept.clear()  # the last group of the block: solving for its target takes memory
        return Fit(running.count, **running.means())


def _finished(base: Any, block: str, done: list[str], left: list[list[str]]) -> list[str]:
    """The outermost modules inside a block that hold sites that are `done`, and none that is
    `left`: they give the same outputs from now on."""
    waiting = [site for sites in left for site in sites]
    found: list[str] = []
    for path, module in base.get_submodule(block).named_modules(prefix=block):
        holds = any(site.startswith(f"{path}.") for site in done)
        runs = path != block and not isinstance(module, nn.ModuleList | nn.ModuleDict)
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if holds and runs and not inside and not any(s.startswith(f"{path}.") for s in waiting):
            found.append(path)
    return found
