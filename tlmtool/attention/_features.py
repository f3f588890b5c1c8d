"""Positive features of queries and keys, and sums over them that weigh tokens by shares of one."""

import torch
from torch import Tensor

from tlmtool.attention.base import State

LEAST = 1e-12  # of a sum of weights, so that a text of padding alone divides by no zero
NOISE = 0.1  # of W about 1 at the start; without it several kernels would stay equal
EMPTY: State = {}

QKV = tuple[Tensor, Tensor, Tensor]


def featured(
    qkv: QKV, maps: Tensor, mask: Tensor | None, causal: bool, before: Tensor | float
) -> tuple[QKV, State]:
    """q, k and v (B, H, N, D) -> (what stands for them, the state of the sums).

    For q stands v. For k and v stand features (B, H, N, 2 D): of k, and of q over the sum of the
    weights of its token. Token i weighs token n by the product of their features. `maps` (H, 2, D,
    D): those of q and k. `before` (B, H, 1, 2 D): the sum of the features of the tokens before.
    """
    q, k = (_positive(x, each) for x, each in zip(qkv[:2], maps.unbind(1), strict=True))
    if mask is not None:
        q, k = q * mask, k * mask
    sums = (k.cumsum(2) if causal else k.sum(2, keepdim=True)) + before
    weights = (q * sums).sum(-1, keepdim=True)
    return (qkv[2], k, q / weights.clamp_min(LEAST)), {"kk": sums[:, :, -1:].clone()}


def _positive(x: Tensor, weight: Tensor) -> Tensor:
    """The softmax of (A x, -A x): (B, H, N, D), (H, D, D) -> (B, H, N, 2 D)."""
    x = x @ weight.mT
    return torch.cat((x, -x), -1).softmax(-1)


def started(made: dict[str, Tensor]) -> dict[str, Tensor]:
    """Normal random tensors as they start: maps that keep x, and W close to 1, which is linear
    attention. The mixer starts at 0."""
    width = made["maps"].shape[-1]
    eye = torch.eye(width).expand_as(made["maps"])
    found = {name: NOISE * x for name, x in made.items() if name not in ("maps", "mixer")}
    found["maps"] = width**-0.25 * eye
    if "kernel" in found:
        found["kernel"] += 1
    else:
        found["left"][..., 0] += 1
        found["right"][..., 0, :] += 1
    if "mixer" in made:
        found["mixer"] = torch.zeros_like(made["mixer"])
    return {name: found[name] for name in made}
