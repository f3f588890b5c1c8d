"""The short way through a chain of factors is taken only where it gives what a call gives."""

import copy
from contextlib import contextmanager

import pytest
import torch
from conftest import inputs, pico
from torch import nn
from torch.nn.modules import module as hooks
from torch.nn.utils import parametrize

from tlmtool.decompositions.svd import SVD
from tlmtool.models.factorized import FactorizedLinear
from tlmtool.models.holding import FEW, WIDE
from tlmtool.models.modeling import adopt
from tlmtool.models.surgery import factorize, sites

LINKS = ["weight", "weight.right", "weight.left"]


def linear(o: int = 12, i: int = 8, rank: int = 4, bias: bool = True) -> FactorizedLinear:
    torch.manual_seed(0)
    dense = nn.Linear(i, o, bias=bias)
    made = FactorizedLinear(SVD(rank), dense, SVD(rank).decompose(dense.weight))
    with torch.enable_grad():
        made(torch.randn(1, i))  # a call before anything is changed
    return made


def by_parts(made: FactorizedLinear, x: torch.Tensor) -> torch.Tensor:
    return made.weight(x)


@contextmanager
def watching(module: nn.Module, kind: str, seen: list):
    """A hook of one kind on a module, or on all of them."""

    def hook(module, *rest):
        seen.append(type(module).__name__)

    where = module.register_full_backward_hook if kind == "backward" else None
    where = where or getattr(module, f"register_{kind}_hook", None) or getattr(hooks, kind)
    handle = where(hook)
    yield
    handle.remove()


KINDS = ["forward", "forward_pre", "full_backward", "full_backward_pre"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", LINKS)
def test_a_hook_on_any_part_is_called(path, kind):
    made, seen = linear(), []
    x = torch.randn(2, 8, requires_grad=True)
    with watching(made.get_submodule(path), kind, seen):
        made(x).sum().backward()
        assert len(seen) == 1
    made(x).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward"])
def test_a_hook_on_every_module_is_called(kind):
    made, seen = linear(), []
    with watching(made, f"register_module_{kind}_hook", seen):
        made(torch.randn(2, 8, requires_grad=True)).sum().backward()
    assert sorted(seen) == ["Chain", "FactorizedLinear", "Linear", "Linear"]


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def other_module(made):
    made.weight.left = nn.Sequential(made.weight.left, Doubled())


def other_forward(made):
    left = made.weight.left
    left.forward = lambda x: 2 * nn.Linear.forward(left, x)


def other_weight(made):
    parametrize.register_parametrization(made.weight.left, "weight", Doubled())
    parametrize.register_parametrization(made.weight.left, "bias", Doubled())


def other_parameter(made):
    for name, value in list(made.weight.left.named_parameters()):
        setattr(made.weight.left, name, nn.Parameter(2 * value.detach()))


def other_class(made):
    made.weight.left.__class__ = type(
        "Twice", (nn.Linear,), {"forward": lambda self, x: 2 * nn.Linear.forward(self, x)}
    )


def one_more(made):
    made.weight.append(Doubled())


CHANGES = [other_module, other_forward, other_weight, other_parameter, other_class, one_more]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_link_is_used(change):
    made = linear()
    x = torch.randn(3, 8)
    before = made(x)
    change(made)
    assert torch.allclose(made(x), 2 * before, atol=1e-6)


def test_a_forward_for_all_linears_is_used(monkeypatch):
    made, seen, real = linear(), [], nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda s, x: (seen.append(s), real(s, x))[1])
    made(torch.randn(3, 8))
    assert seen == [made.weight.right, made.weight.left]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_equals_a_call_of_each_link_with_all_gradients(dtype, bias):
    made = linear(bias=bias).to(dtype)
    for shape in [(8,), (3, 8), (2, 3, 8), (0, 8)]:
        x = torch.randn(shape)
        one, other = made(x), by_parts(made, x.to(dtype))
        assert one.dtype == dtype and torch.equal(one, other)
        pairs = (torch.autograd.grad(y.sum(), list(made.parameters())) for y in (one, other))
        assert all(map(torch.equal, *pairs))


def test_autocast_and_functional_calls_see_their_tensors():
    made, x = linear(), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(x), by_parts(made, x)) and made(x).dtype == torch.bfloat16
    twice = {name: 2 * value for name, value in made.named_parameters()}
    expected = torch.func.functional_call(made.weight, {k[7:]: v for k, v in twice.items()}, x)
    assert torch.equal(torch.func.functional_call(made, twice, x), expected)


def test_export_names_every_link():
    program = torch.export.export(linear(), (torch.randn(2, 8),))
    stacks = [node.meta.get("nn_module_stack") or {} for node in program.graph.nodes]
    named = {path for stack in stacks for path, _ in stack.values()}
    assert {"weight.right", "weight.left"} <= named


# ---- the order of a tall factor


@torch.no_grad()
def test_one_token_orders_tall_factors_only_and_changes_no_value():
    for o, rank, tall in [(2 * WIDE, WIDE, True), (2 * WIDE, WIDE - 1, False), (WIDE, WIDE, True)]:
        made = linear(o, WIDE + 40, rank)
        x, before = torch.randn(1, WIDE + 40), copy.deepcopy(made.state_dict())
        expected = by_parts(made, x)
        assert torch.allclose(made(x), expected, atol=1e-5)
        assert made.train(False).weight.left.weight.is_contiguous() != tall
        assert made.weight.right.weight.is_contiguous()
        assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())
        assert made.train().weight.left.weight.is_contiguous()


def test_training_and_long_texts_and_other_tensors_keep_the_order():
    def kept(made, x):
        made(x)
        return made.weight.left.weight.is_contiguous()

    sizes = (2 * WIDE, 2 * WIDE, WIDE)
    x = torch.randn(FEW + 1, 2 * WIDE)
    assert kept(linear(*sizes), x[:1])  # with gradients
    with torch.no_grad():
        assert kept(linear(*sizes), x)
        assert kept(linear(*sizes).bfloat16(), x[:1])
        shared = linear(*sizes)
        shared.share_memory()
        assert kept(shared, x[:1])
        part = linear(*sizes)
        part.weight.left.weight.data = torch.randn(4 * WIDE, WIDE)[: 2 * WIDE]
        assert kept(part, x[:1])
    trained = linear(*sizes)
    trained(x).sum().backward()
    with torch.no_grad():
        assert kept(trained, x[:1])


def test_generating_changes_no_byte_of_a_checkpoint(tmp_path):
    model = pico("gpt2", "lm", n_embd=WIDE + 4, n_inner=2 * WIDE)
    factorize(model, {s: SVD(WIDE) for s, role in sites(model).items() if role == "up"})
    model = adopt(model).eval()
    ties = {name: value.data_ptr() for name, value in model.named_parameters()}
    model.save_pretrained(tmp_path / "before")
    ids = inputs(model)["input_ids"]
    model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=1)
    moved = {name for name, value in model.named_parameters() if value.data_ptr() != ties[name]}
    assert moved and all(name.endswith("left.weight") for name in moved)
    model.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "before").iterdir():
        assert file.read_bytes() == (tmp_path / "after" / file.name).read_bytes(), file.name
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
