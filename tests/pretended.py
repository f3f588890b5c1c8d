"""A GPU that is not there: tensors of a device "gpu" that hold no numbers. To be run, not imported.

python tests/pretended.py: prints {check: error, or null} as JSON. An operation that mixes tensors
of the CPU with those of the device raises, and so does one with a tensor that stayed behind. It is
a process of its own, since the device is made known to all of torch. (Pretended tensors of a device
"cuda" cannot be indexed or changed in place where torch is built without CUDA.)
"""

import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from conftest import WORDS, inputs, pico, word_tokenizer
from factored import compressed
from test_attending import made
from test_gpu_attention import KERNELS, WAYS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

from tlmtool import compress
from tlmtool.decompositions import NAMES, named
from tlmtool.models.checkpoint import load
from tlmtool.models.factorized import FactorizedLinear, shape
from tlmtool.models.surgery import merge, sites
from tlmtool.training.expansion import Expansion
from tlmtool.training.growth import expansion
from tlmtool.training.optimizing import Optimizer

GPU = "gpu"
TEXTS = [" ".join(WORDS[k:] + WORDS[:k]) for k in range(len(WORDS))]
LENGTH = len(WORDS) + 2  # tokens
RELOADED = {"bert": "btd", "gpt2": "svd", "llama": "tucker", "t5": "svd"}  # {family: method}
checks: dict[str, Callable[[], Any]] = {}


class Read(TorchDispatchMode):
    """Answers where numbers are read from a tensor: 1, true, no error code, or the length of every
    text. Masks are true everywhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
            args = (args[0], [place for x in args[1] for place in places(x)], *args[2:])
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            known = {torch.bool: True, torch.int32: 0, torch.int64: LENGTH}
            return known.get(args[0].dtype, 1.0)


def places(index: Tensor | None) -> list[Tensor | None]:
    """A mask as the places where it is true, one index for each of its dimensions."""
    if index is None or index.dtype != torch.bool:
        return [index]
    return [torch.empty(index.numel(), dtype=torch.long, device=index.device)] * index.ndim


def moved(model: nn.Module) -> nn.Module:
    """A model with its parameters and buffers on the device, as `.to` has them. Whatever a module
    holds otherwise stays where it is."""
    there: dict[int, Any] = {}

    def of(x: Tensor) -> Tensor:
        if id(x) not in there:
            new = torch.empty(x.shape, dtype=x.dtype, device=GPU)
            there[id(x)] = (
                nn.Parameter(new, x.requires_grad) if isinstance(x, nn.Parameter) else new
            )
        return there[id(x)]

    for module in model.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: of(x) for name, x in held.items() if x is not None})
    return model


class Module(backend_registration._DummyBackendModule):
    """What torch asks the module of a device, for autocast."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def tensor(data: Any, *, device: Any = None, make=torch.tensor, **more: Any) -> Tensor:
    """As torch.tensor, without the data: what holds real data cannot go to a device that is not
    there."""
    x = make(data, **more)
    return torch.empty(x.shape, dtype=x.dtype, device=device or x.device)


def on_gpu(*tensors: Tensor | None) -> None:
    for x in tensors:
        assert x is not None and x.device.type == GPU, x


def given(model: Any) -> dict[str, Tensor]:
    return {name: torch.empty_like(x, device=GPU) for name, x in inputs(model).items()}


def kernel(name: str, causal: bool) -> None:
    one = KERNELS[name]
    heads, width = one.heads(4, 8)
    learned = one.initial(heads, width, 32)
    drawn = [torch.randn(2, heads, 21, width, device=GPU) for _ in range(3)]
    leaves = [torch.empty(x.shape, device=GPU) for x in (*drawn, *learned.values())]
    leaves = [x.requires_grad_() for x in leaves]
    tensors = dict(zip(learned, leaves[3:], strict=True))
    real = torch.ones(2, 21, dtype=torch.bool, device=GPU)
    out = one.apply(*leaves[:3], tensors, real, causal)
    on_gpu(out, *torch.autograd.grad(out.sum(), leaves))
    on_gpu(one.naive(*leaves[:3], tensors, real, causal))
    if causal:
        state = None
        for part in (slice(0, 8), slice(8, 9)):
            qkv = (x[:, :, part] for x in leaves[:3])
            out, state = one.stream(*qkv, tensors, state, real[:, part])
            on_gpu(out)


def linear(name: str) -> None:
    """Forward and backward, for few tokens and for many; its factors, from a weight there."""
    for d in (named(name)(3), named(name)()):
        dense = nn.Linear(24, 12, device=GPU)
        metric = torch.eye(24, device=GPU)
        factors = d.decompose(dense.weight, metric if d.takes_metric else None)
        module = FactorizedLinear(d, dense, factors)
        for tokens in (1, 700):
            y = module(torch.randn(tokens, 24, device=GPU))
            y.sum().backward()
            on_gpu(y, module.dense_weight(), *(p.grad for p in module.parameters()))
        with torch.no_grad():
            on_gpu(module(torch.randn(1, 24, device=GPU)))


def whole(model: Any) -> None:
    """Forward and backward, a token after a cache, and the dense model again."""
    moved(model)
    read = given(model)
    out = model(**read)
    out[0].sum().backward()
    trained = [p.grad for p in model.parameters() if p.requires_grad and p.grad is not None]
    on_gpu(out[0], *trained)
    if "past_key_values" in out:
        few = {k: x[:, :1] for k, x in read.items() if k in ("input_ids", "decoder_input_ids")}
        if "decoder_input_ids" in few:
            few["input_ids"] = read["input_ids"]
        on_gpu(model.eval()(**few, past_key_values=out.past_key_values)[0])
    merge(model)
    on_gpu(*model.parameters(), model(**read)[0])


def step() -> None:
    """Two steps with every linear over-parameterized, and the weights that come out of it."""
    model = moved(pico("gpt2", "lm").train())
    base = model.base_model
    weights = {s: base.get_submodule(s).weight for s, r in sites(model).items() if r != "embedding"}
    optimizer = Optimizer(base, weights, 1e-3, 0.01, "linear", 2, 10)
    read = given(model)
    for number in range(2):
        model(**read)[0].square().mean().backward()
        optimizer.step()
        for site in list(weights) if number == 0 else ():
            module = base.get_submodule(site)
            made = Expansion(site, module, expansion(*shape(module), 2.0, None))
            optimizer.swap(made, 1.0)
            on_gpu(*made.cores.values())
    on_gpu(*model.parameters())


def again(family: str, method: str) -> Callable[[], None]:
    """A checkpoint that is loaded again. Its files are read on the CPU, as `load` reads them."""
    with tempfile.TemporaryDirectory() as folder:
        compressed(family, "lm", method, embedding=True).save_pretrained(folder)
        model = load(folder)
    return lambda: whole(model)


def smaller(**asked: Any) -> None:
    """A model that is compressed on the device."""
    model, words = moved(pico("gpt2", "lm")), word_tokenizer()
    compress(model, tokenizer=words if "texts" in asked else None, **asked)
    on_gpu(*model.parameters(), model(**given(model))[0])


def declare() -> None:
    for name, causal in WAYS:
        checks[f"kernel {name}{', causal' * causal}"] = lambda n=name, c=causal: kernel(n, c)
    for name in (name for name in NAMES if named(name).alone):
        checks[f"linear {name}"] = lambda n=name: linear(n)
    for family, method in RELOADED.items():
        checks[f"re-load {family}, {method}"] = again(family, method)
    for family, name in (("bert", "dimensionwise"), ("gpt2", "conv"), ("llama", "decay")):
        model = made(family, name)
        checks[f"model {family}, {name}"] = lambda m=model: whole(m)
    checks["over-parameterized step"] = step
    checks["compress to a rank"] = lambda: smaller(rank=2, method="tucker")
    for method in ("svd", "auto"):
        asked = {"keep": 0.5, "sites": "attention,ffn", "method": method, "texts": TEXTS}
        checks[f"compress by texts, {method}"] = lambda a=asked: smaller(**a)


def wrong() -> Iterator[tuple[str, Callable[[], Any]]]:
    """What must raise, lest the checks pass whatever is done."""
    there = lambda *size: torch.randn(*size, device=GPU)  # noqa: E731
    yield "sum", lambda: there(3) + torch.randn(3)
    yield "product", lambda: there(3, 3) @ torch.randn(3, 3)
    yield "join", lambda: torch.cat([there(3), torch.randn(3)])
    yield "choice", lambda: torch.where(there(3) > 0, there(3), torch.zeros(3))
    yield "linear", lambda: nn.Linear(3, 3)(there(3))


def told(error: Exception) -> str:
    """The error, and where in our files it arose."""
    calls = traceback.extract_tb(error.__traceback__)
    ours = [
        f"{Path(c.filename).name}:{c.lineno}" for c in calls if "site-packages" not in c.filename
    ]
    return f"{type(error).__name__}: {str(error)[:300]} ({', '.join(ours)})"


def main() -> None:
    declare()  # what is drawn, saved and loaded is real
    backend_registration._setup_privateuseone_for_python_backend(GPU, Module())
    torch.tensor = tensor
    found: dict[str, str | None] = {}
    with FakeTensorMode(allow_non_fake_inputs=False), Read():
        for name, check in checks.items():
            try:
                check()
                found[name] = None
            except Exception as error:
                found[name] = told(error)
        for name, check in wrong():
            try:
                check()
                found[f"wrong {name}"] = "nothing was raised"
            except Exception:
                found[f"wrong {name}"] = None
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
