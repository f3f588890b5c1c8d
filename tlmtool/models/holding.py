"""The modules that hold factors in the place of a weight, and the short way through a chain."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn import functional
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

FEW = 4  # tokens of a call that generates. With more, the order of a factor makes no difference
WIDE = 128  # columns from which the order is changed: narrower factors are as fast in rows, or
# faster
LINEAR = nn.Linear.forward  # some tools put their own in its place, for all linears at once


class Asked(nn.Module):
    """Factors in the place of a weight. Models ask `linear.weight` for its dtype and its device."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the factors."""
        return first_of(self).dtype

    @property
    def device(self) -> torch.device:
        """The device of the factors."""
        return first_of(self).device


class Chain(nn.Sequential, Asked):
    """The modules of factors that are a chain of matrices.

    `applied` gives what a call gives, in less time. To call three modules takes longer than to
    multiply a short vector by a small matrix. So where every link is an `nn.Linear` that nobody
    watches or has changed, its tensors are used directly.

    On a CPU, BLAS multiplies one vector by a tall float32 matrix up to twice as fast if the matrix
    lies in memory column by column. The first call that generates puts such factors into this
    order. Their values, names and shapes stay, and `train()` puts them back.
    """

    ordered = False  # whether the order of the factors has been looked at

    def applied(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O), x in any dtype."""
        if type(x) is not Tensor or (links := self._links()) is None:
            for each in self:
                _fill_no_blocks(each)
            return self(met(x, self[0]))
        if x.dtype is not (dtype := links[0]["weight"].dtype):
            x = x.to(dtype)
        if not (self.ordered or torch.is_grad_enabled()) and x.numel() <= FEW * x.shape[-1]:
            self._order(links)
        for link in links:
            x = functional.linear(x, link["weight"], link["bias"])
        return x

    def _links(self) -> list[dict[str, Any]] | None:
        """The parameters of each link; None where a call may do more than `functional.linear`.

        It is asked at each call, because links are hooked and replaced at any time.
        """
        if (
            is_compiling()  # which then sees every module, and pays nothing for them
            or _global_forward_hooks
            or _global_forward_pre_hooks
            or _global_backward_hooks
            or _global_backward_pre_hooks
            or nn.Linear.forward is not LINEAR
            or _watched(own := self.__dict__)
        ):
            return None
        found = []
        for link in own["_modules"].values():
            if type(link) is not nn.Linear or _watched(own := link.__dict__):
                return None
            if len(held := own["_parameters"]) != 2:  # a sharded model keeps them elsewhere
                return None
            found.append(held)
        return found

    def _order(self, links: list[dict[str, Any]]) -> None:
        """Put tall factors into the order that is faster for one token."""
        self.ordered = True
        with torch.inference_mode(False), torch.no_grad():
            for weight in (link["weight"] for link in links):
                if _alone(weight) and WIDE <= weight.shape[1] <= weight.shape[0]:
                    weight.data = weight.t().contiguous().t()

    def train(self, mode: bool = True) -> "Chain":
        """As of any module; for training the factors lie in rows again."""
        if mode and self.ordered:
            self.ordered = False
            for weight in self.parameters():
                if not weight.is_contiguous() and _alone(weight):
                    weight.data = weight.detach().contiguous()
        return super().train(mode)


def met(x: Tensor, link: nn.Module) -> Tensor:
    """The input of a link in the dtype of its weight. The weight of a quantized linear holds whole
    numbers or floats of one byte, or is no tensor at all; such a module takes floats as they are.
    """
    weight = getattr(link, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.itemsize > 1:
        return x.to(weight.dtype)
    return x


def _fill_no_blocks(link: Any) -> None:
    """On some CPUs bitsandbytes packs a 4-bit weight in blocks of 32 rows and `blocksize` columns,
    and fails where they are not filled. Factors seldom fill them; such a weight stays as it is."""
    if getattr(link, "support_avx512bf16_for_cpu", False):
        columns = getattr(link.weight, "blocksize", 64)
        if link.in_features % columns or link.out_features % 32:
            link.support_avx512bf16_for_cpu = False


def _watched(own: dict[str, Any]) -> bool:
    """Whether a call of the module with these attributes is more than the forward of its class."""
    return bool(
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own  # as accelerate does where it moves weights
        or "_compiled_call_impl" in own
    )


def _alone(weight: Tensor) -> bool:
    """Whether a weight may lie in memory otherwise: a plain one of a CPU whose memory is its own
    and which is not in training."""
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.dtype is torch.float32
        and weight.grad is None
        and not (weight.is_inference() or weight.is_shared())
        and weight.untyped_storage().nbytes() == weight.nbytes
    )


class Store(nn.ParameterDict, Asked):
    """Tensors that a module computes with; calling the store returns them.

    Tools that offload weights move the tensors of a module into place when that module is called.
    So the tensors are read by a call, never as attributes.
    """

    __call__ = nn.Module.__call__  # ParameterDict forbids it

    def forward(self) -> dict[str, Tensor]:
        """{name: tensor}"""
        return dict(self.items())


class Turned(nn.Module):
    """A linear map without bias whose weight is stored as (I, O), the transpose of `nn.Linear`."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)"""
        return x @ self.weight


def first_of(module: nn.Module) -> nn.Parameter:
    """The first parameter of a module. Raises ValueError for a module without any."""
    for parameter in module.parameters():
        return parameter
    raise ValueError(f"{type(module).__name__} has no parameters, so it cannot be factorized")
