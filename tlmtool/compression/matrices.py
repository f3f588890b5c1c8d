"""The chosen sites of a model, and the time of what a plan and a fit compute with each matrix."""

from collections.abc import Mapping
from typing import Any

from tlmtool.measuring.machine import Rates
from tlmtool.models.factorized import shape

# They were set by measuring runs. A larger one lengthens the forecast of its part.
ROOT = 2.0  # times that a Cholesky factor takes for its FLOPs, compared with a product
VALUES = 0.4  # time of eigenvalues alone, of that with eigenvectors
METHODS = {"btd": 12.0, "tucker": 6.0, "mpo": 3.0, "cp": 40.0}  # time to factorize a matrix,
# compared with svd
AUTO = 4.0  # products that `auto` takes for its comparison, of those of a spectrum
RANKED = 3.0  # FLOPs for each cube of a width in which the neurons of an MLP are ranked
MOVED = 8.0  # numbers made for each of the metrics, the weight and the target of a site


class Matrices:
    """The chosen sites of a model, as a plan and a fit have to compute with them."""

    def __init__(self, model: Any, roles: Mapping[str, str]):
        shapes = {s: shape(model.base_model.get_submodule(s)) for s in roles}
        self.tables = [shapes[s] for s in roles if roles[s] == "embedding"]
        linears = {s: each for s, each in shapes.items() if roles[s] != "embedding"}
        self.linears, alike = [*linears.values()], {"gate": "up"}
        alike |= dict.fromkeys(("query", "key", "value"), "in")
        self.widths = [i for s, (_, i) in linears.items() if roles[s] == "down"]
        groups = dict[tuple[str, str], int]()  # {sites that read one input: its width}
        for site, (_, i) in linears.items():
            parent, _, name = site.rpartition(".")
            groups[parent, alike.get(roles[site], name)] = i
        blocks = {parent.rpartition(".")[0] for parent, _ in groups}
        self.groups, self.read = len(groups), sum(groups.values()) // max(len(blocks), 1) * 2
        self.inputs = sum(2.0 * i * i for i in groups.values())  # FLOPs of a token
        self.outputs = sum(2.0 * o * o for o, _ in self.linears)
        self.size = sum(o * i for o, i in shapes.values())
        self.largest = max((max(o, i) * i for o, i in self.linears), default=0)

    def spectra(self, rates: Rates, weighed: bool, sensitive: bool) -> float:
        """The seconds of the spectra of all sites."""
        seconds = sum(_eigen(o, i, rates, VALUES) for o, i in [*self.linears, *self.tables])
        for o, i in self.linears:
            seconds += _gram(o, i, weighed, sensitive) / rates.exact
            seconds += MOVED * (i * i * weighed + o * o * sensitive) / rates.numbers
        return seconds + sum(_gram(o, i) for o, i in self.tables) / rates.exact

    def rankings(self, rates: Rates) -> float:
        """The seconds in which the neurons of all MLPs are ranked."""
        return sum(RANKED * i**3 / rates.exact + MOVED * i * i / rates.numbers for i in self.widths)

    def choices(self, rates: Rates) -> float:
        """The seconds in which `auto` compares the decompositions of all sites."""
        return AUTO * sum(_gram(o, i, True, True) for o, i in self.linears) / rates.exact

    def factors(
        self, rates: Rates, method: str, weighed: bool, sequential: bool, part: float = 1.0
    ) -> float:
        """The seconds of the targets of all sites, and of the factors and errors of a part."""
        times, factored, seconds = METHODS.get(method, 1.0), 0.0, 0.0
        for o, i in [*self.linears, *self.tables]:
            factored += (times + 1.0 + VALUES * weighed) * _eigen(o, i, rates, 1.0)
            factored += (times + 3.0) * _gram(o, i) / rates.exact
        for o, i in self.linears:
            weights = 2.0 * _gram(o, i, weighed, sequential) + 2.0 * o * i * i * weighed
            factored += weights / rates.exact
            target = (ROOT * (i**3 / 3 + 2.0 * o * i * i) + 2.0 * o * i * i) * sequential
            seconds += target / rates.exact + MOVED * (o * i + i * i) / rates.numbers
        return seconds + part * factored


def _gram(o: int, i: int, weighed: bool = False, sensitive: bool = False) -> float:
    """FLOPs of the smaller Gram matrix of W (O, I), `weighed` by the metric of its inputs, and
    `sensitive` to that of its outputs. That of the smaller side needs a Cholesky factor."""
    least, most = min(o, i), max(o, i)
    near, far = (sensitive, weighed) if o <= i else (weighed, sensitive)
    flops = 2.0 * least**2 * most + 2.0 * least * most**2 * far
    return flops + (ROOT * least**3 / 3 + 4.0 * least**3) * near


def _eigen(o: int, i: int, rates: Rates, part: float) -> float:
    """The seconds of the eigenvectors of the smaller Gram matrix of (O, I), or of their part."""
    return part * min(o, i) ** 3 / rates.eigen
