"""The state of causal kernels in a transformers cache, so that `generate` goes token by token."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, EncoderDecoderCache, StaticLayer

from tlmtool.attention.base import Attention, State, Tensors


class Given(NamedTuple):
    """What a kernel got for some tokens: q, k and v, its learned tensors, and which are real."""

    qkv: tuple[Tensor, Tensor, Tensor]
    tensors: Tensors
    real: Tensor | None

    def first(self, n: int) -> "Given":
        """The same for the first n of the tokens."""
        q, k, v = (x[:, :, :n] for x in self.qkv)
        return Given((q, k, v), self.tensors, None if self.real is None else self.real[:, :n])


class StateLayer(CacheLayerMixin):
    """The layer of a cache that holds the state of a causal kernel. Its size does not grow with N.

    `room`: the number of tokens that masks are made for, where the other layers of the cache have a
    fixed length; -1 means as many as there are. A state cannot forget a token. So after
    `activate_past_recording`, which assisted decoding calls, the layer also keeps the tokens since
    the last `crop` and the state before them.
    """

    is_croppable = True

    def __init__(self, room: int = -1) -> None:
        super().__init__()
        self.state: State | None = None
        self.seen, self.room = 0, room
        self.record_past = False
        self.past: list[tuple[State | None, Attention, Given]] = []
        self.is_initialized = True
        self.is_compileable = room >= 0  # else masks of layers beside it are left out

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> Any:
        """The new keys and values alone: the past is in the state."""
        self.seen += key_states.shape[-2]
        return key_states, value_states

    def stream(self, kernel: Attention, given: Given) -> Tensor:
        """What `kernel.stream` gives for the next tokens; the state moves on. `update` has counted
        the tokens already."""
        if self.record_past:
            self.past.append((self.state, kernel, given))
        mixed, self.state = _streamed(kernel, given, self.state)
        return mixed

    def activate_past_recording(self) -> None:
        """From now on keep what `crop` needs."""
        self.record_past = True

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last -`tokens_to_remove` tokens. Raises ValueError unless all of them came
        after the last call."""
        left = -tokens_to_remove
        if left < 0 or left > sum(given.qkv[0].shape[2] for _, _, given in self.past):
            raise ValueError(
                f"crop({tokens_to_remove}) is not possible: a kernel's state forgets only tokens "
                "read since activate_past_recording() and the last crop, given as a negative "
                "number; otherwise start a new cache with the whole text"
            )
        while left:
            self.state, kernel, given = self.past.pop()
            n = given.qkv[0].shape[2]
            self.seen, stay = self.seen - min(left, n), max(n - left, 0)
            if stay:
                self.state = _streamed(kernel, given.first(stay), self.state)[1]
            left -= n - stay
        self.past = []

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length if self.room < 0 else self.room, 0

    def get_seq_length(self) -> int:
        return self.seen

    def get_max_length(self) -> int:
        return self.room

    def reset(self) -> None:
        self.state, self.seen, self.past = None, 0, []

    def offload(self) -> None:
        pass

    def prefetch(self) -> None:
        pass

    def _each(self, change: Callable[[Tensor], Tensor]) -> None:
        self.past = []  # it has the rows of before the change
        if self.state is not None:
            self.state = {name: change(tensor) for name, tensor in self.state.items()}

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self._each(lambda t: t.index_select(0, beam_idx.to(t.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self._each(lambda t: t[indices])


def _streamed(kernel: Attention, given: Given, state: State | None) -> tuple[Tensor, State]:
    q, k, v = given.qkv
    return kernel.stream(q, k, v, given.tensors, state, given.real)


def layer_of(cache: Cache | None, index: int) -> StateLayer | None:
    """The layer of a cache that belongs to a converted module. The first call makes it a
    `StateLayer`. Raises ValueError where softmax attention has filled it already."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if cache is None:
        return None
    make = cache.layer_class_to_replicate
    while len(cache.layers) <= index:
        if make is None:
            raise ValueError(f"the cache has {len(cache.layers)} layers: layer {index} has none")
        cache.layers.append(make())
    held: Any = cache.layers[index]
    if not isinstance(held, StateLayer):
        if held.get_seq_length():
            raise ValueError("a cache that softmax attention has filled cannot go on with a kernel")
        held = StateLayer(held.max_cache_len if isinstance(held, StaticLayer) else -1)
        cache.layers[index] = held
    return held
