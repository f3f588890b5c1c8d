"""What `--method auto` takes for a site: the SVD, unless a rival loses less."""

from collections.abc import Hashable, Sequence

from torch import Tensor

from tlmtool.compression.allocation import Spectrum
from tlmtool.compression.weighing import Weighed
from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.svd import SVD, blind_losses

CLEAR = 1.2  # squared errors: a rival that loses by a larger factor is passed over for a while. A
# smaller one takes less time, and more often misses a later site where the rival would win.
NOTHING = 1e-12  # share of the output's energy: an SVD that loses less is exact but for rounding. A
# larger one passes over an exact rival where the SVD is nearly exact.


class Rivals:
    """Finds the candidate with the least weighed error |g^T dW s|, site after site of one model.

    The loss of the SVD is known from its spectrum. A rival is ruled out by the first of these that
    holds, and only otherwise are its factors tried:

    1. Its matrix rank is no higher than that of the SVD, which is the best matrix of its rank.
    2. It cannot weigh errors of the outputs. Even the best matrix of its rank, found without such
       weights, loses more than the SVD.
    3. It lost clearly, by 2 or in a trial, at an earlier site of the same role and shape. It is
       passed over at 1 site then, at 3 after the next such loss, then at 7 and so on.

    The first rule is exact. The second could only be wrong by chance: the rival does not aim at
    what it is judged by, and its structure keeps it from that matrix. The third is a guess, and is
    checked again deeper in the model.
    """

    def __init__(self) -> None:
        self._passes: dict[Hashable, tuple[int, int]] = {}  # sites left to pass over, of how many

    def best(
        self, found: Sequence[Decomposition], each: Weighed, role: str, known: Spectrum
    ) -> Decomposition:
        """The best of several candidates. `known` is the spectrum of the site."""
        o, i = each.weight.shape
        svd = next((d for d in found if isinstance(d, SVD) and d.rank), None)
        if svd is None or svd.rank is None:
            return min(found, key=each.loss)
        best, least = svd, known.lost(svd.rank)
        if least <= NOTHING * known.lost(0):
            return svd
        curve: Tensor | None = None
        for rival in found:
            reach, key = rival.reach(o, i), (rival.name, role, o, i)
            left, length = self._passes.get(key, (0, 0))
            if rival is svd or reach <= svd.rank:
                continue
            if left:
                self._passes[key] = left - 1, length
                continue
            if not rival.takes_output_metric and each.output_metric is not None:
                curve = blind_losses(*each[1:4]) if curve is None else curve
                loss = float(curve[reach:].sum())
            else:
                loss = 0.0
            if loss < known.lost(svd.rank):
                loss = each.loss(rival)
            if loss < least:
                best, least = rival, loss
            length = 2 * length + 1 if loss > CLEAR * known.lost(svd.rank) else 0
            self._passes[key] = length, length
        return best
