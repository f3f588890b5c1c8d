"""What one forward pass shows: which linears feed which, and which end at a residual add."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tlmtool.models.shadow import shadow

TOKENS = 5  # of each of the two texts of the pass; a longer pass shows nothing more
# What a value goes through on its way from one linear to the next.
ACTED, SOFTMAX, MIXED = 1, 2, 4
ACTIVATIONS = {"silu", "gelu", "relu", "tanh", "sigmoid", "hardswish", "leaky_relu", "elu", "erf"}
ACTIVATIONS |= {"softplus", "mish", "hardtanh", "log_sigmoid_forward"}
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "cumsum", "scatter", "_fft_r2c"}
KERNEL = "kernel"
PRODUCTS |= {"_fft_c2c", KERNEL}
ADDS = {"add", "add_"}
SAME = {"view", "_unsafe_view", "_to_copy", "clone", "detach", "alias"}  # give the value as it is


@dataclass
class Value:
    """A tensor of the pass. `before`: a bit for every value that it is computed from, and its own.
    `own`: its bit; a residual stream also has those of what it was before its last adds.
    `via`: {linear whose output reaches it through no other linear: what happened on the way}."""

    before: int = 0
    own: int = 0
    via: dict[str, int] = field(default_factory=dict)


@dataclass
class Flow:
    """What a pass shows of linears, by path.

    `called`: those that ran. `feeds`: {linear: {linear before it: what happens on the way}}.
    `ends`: those whose output is added to a residual stream. `unread`: those of which no input
    comes from the text. `taken`: those whose weight is read by another module than the linear.
    """

    called: set[str] = field(default_factory=set)
    feeds: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    ends: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)


def flow_of(base: nn.Module, linears: Mapping[str, nn.Module]) -> Flow | None:
    """The flow of a pass of two short texts through a base model; None where it cannot run.

    It runs on the meta device. A model that reads numbers on its way runs on zeros on the CPU.
    """
    for device, mask in (("meta", False), ("meta", True), ("cpu", True)):
        ghost = shadow(base, device)
        try:
            with torch.no_grad(), torch.device(device):
                return _watched(ghost, list(linears), short_texts(ghost, device, mask))
        except Exception:  # a model's own code raises errors of many kinds
            continue
    return None


def _watched(ghost: Any, linears: list[str], inputs: dict[str, Any]) -> Flow:
    watch = _Watch(ghost, linears, [t for t in inputs.values() if isinstance(t, Tensor)])
    with watch.hooks(), watch:
        ghost(**inputs)
    return watch.flow


def short_texts(ghost: Any, device: str, mask: bool) -> dict[str, Any]:
    """Two texts of a few tokens, for a decoder that reads an encoder with the states of that."""
    known = signature(ghost.forward).parameters
    ids = torch.ones((2, TOKENS), dtype=torch.long, device=device)
    found: dict[str, Any] = {"input_ids": ids}
    if "decoder_input_ids" in known:
        found["decoder_input_ids"] = ids.clone()
    if mask and "attention_mask" in known:
        found["attention_mask"] = torch.ones_like(ids)
    config = ghost.config
    if "encoder_hidden_states" in known and getattr(config, "add_cross_attention", False):
        weight = next(ghost.parameters())
        size = 2, TOKENS, config.hidden_size
        found["encoder_hidden_states"] = torch.zeros(size, dtype=weight.dtype, device=device)
    return found | ({"use_cache": False} if "use_cache" in known else {})


class _Watch(TorchDispatchMode):
    """Follows every value that comes from the text through the operations of a pass."""

    def __init__(self, ghost: nn.Module, linears: list[str], texts: list[Tensor]):
        super().__init__()
        self.flow, self.inside, self.count = Flow(), list[str](), 0
        self.modules = {path: ghost.get_submodule(path) for path in linears}
        self.weights = {id(p): s for s, m in self.modules.items() for p in m.parameters()}
        self.values: dict[int, Value] = {}
        self.written: dict[int, Value] = {}  # by storage: what was written in place
        self.kept: list[Any] = []  # so that no id is used twice
        self.inputs: dict[str, int] = defaultdict(int)  # {linear: what its inputs come from}
        for text in texts:
            self._put(text, Value())

    def hooks(self) -> ExitStack:
        """The hooks on the linears; they go at the end of the context."""
        stack = ExitStack()
        for path, module in self.modules.items():
            before, after = self._entering(path), self._leaving(path)
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)
        return stack

    def _entering(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            self.inside.append(path)
            value = self._get(args[0]) if args else None
            self.flow.called.add(path)
            if value is None:
                if path not in self.inputs:
                    self.flow.unread.add(path)
                return
            self.flow.unread.discard(path)
            self.inputs[path] |= value.before
            feeds = self.flow.feeds[path]
            for site, happened in value.via.items():
                feeds[site] = feeds.get(site, 0) | happened

        return hook

    def _leaving(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            self.inside.pop()
            given = self._get(args[0]) if args else None
            if given is not None:
                self._put(output, Value(given.before, via={path: 0}))

        return hook

    def _put(self, tensor: Tensor, value: Value) -> None:
        value.before |= 1 << self.count
        value.own |= 1 << self.count
        self.count += 1
        self.kept.append(tensor)
        self.values[id(tensor)] = value

    def _get(self, tensor: Tensor) -> Value | None:
        """The value of a tensor, with what was written into its storage."""
        value = self.values.get(id(tensor))
        written = self.written.get(tensor.untyped_storage()._cdata) if self.written else None
        if value is None or written is None:
            return value or written
        return Value(value.before | written.before, value.own, _joined(value.via, written.via))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if func.namespace != "aten":  # an operator of a kernel, which mixes tokens
            name = KERNEL
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        for owner in {self.weights[id(t)] for t in given if id(t) in self.weights}:
            if owner not in self.inside:
                self.flow.taken.add(owner)
        if not self.inside and not name.startswith("new_") and not name.endswith("_like"):
            values = [value for t in given if (value := self._get(t))]
            if values:
                self._follow(name, given, values, result)
        return result

    def _follow(self, name: str, given: list[Tensor], values: list[Value], result: Any) -> None:
        own = 0
        if name in ADDS and len(values) == 2 and given[0].shape == given[1].shape:
            own = self._add(given[0].shape[-1], *values)
        happened = _happens(name)
        before, via = 0, dict[str, int]()
        for value in values:
            before |= value.before
            for site, earlier in () if own else value.via.items():  # a stream starts anew
                via[site] = via.get(site, 0) | earlier | happened
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and name in SAME:
                self.kept.append(tensor)
                self.values[id(tensor)] = values[0]
            elif isinstance(tensor, Tensor):
                self._put(tensor, Value(before, own, dict(via)))
                if any(tensor is t for t in given):  # in place, or into a view of a whole
                    store = tensor.untyped_storage()._cdata
                    held = self.written.get(store, Value())
                    self.written[store] = Value(held.before | before, 0, _joined(held.via, via))

    def _add(self, width: int, one: Value, other: Value) -> int:
        """Note the linears that end here: what is added to them is what they were computed from.
        Returns the bits of that, which the sum inherits; 0 for an add of another kind."""
        inherited = 0
        for stream, value in ((one, other), (other, one)):
            for site, happened in value.via.items():
                wide = _width(self.modules[site]) == width
                if not happened and wide and self.inputs[site] & stream.own:
                    self.flow.ends.add(site)
                    inherited = stream.own
        return inherited


def _joined(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    """What happened on the ways of both."""
    return {site: one.get(site, 0) | other.get(site, 0) for site in {**one, **other}}


def _happens(name: str) -> int:
    if name.rstrip("_") in ACTIVATIONS:
        return ACTED
    if "softmax" in name or "scaled_dot_product" in name:
        return SOFTMAX
    return MIXED if name in PRODUCTS else 0


def _width(module: Any) -> int:
    """O of a linear."""
    return getattr(module, "out_features", getattr(module, "nf", 0))
