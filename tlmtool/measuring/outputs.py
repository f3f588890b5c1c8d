"""The outputs of a model for texts: logits, last hidden states, and how far two of these differ."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tlmtool.data.batching import Batch, batches
from tlmtool.measuring.inputs import inputs_of, name_of, takes

Tick = Callable[[int], None]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, and each module back afterwards."""
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def counted(progress: Callable[[int, int], None] | None, total: int) -> Tick | None:
    """A tick that adds up and passes (done, total) on."""
    if progress is None:
        return None
    done = 0

    def tick(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    return tick


def position_limit(model: nn.Module) -> int | None:
    """The longest input that the model's position tables and its kernels allow; None where neither
    has a limit."""
    return min(filter(None, [_table(model), kernel_length(model)]), default=None)


def kernel_length(model: nn.Module) -> int | None:
    """The shortest length that a kernel of the model is made for; None where each takes any."""
    kernels = (getattr(each, "mixing", None) for each in model.modules())
    made_for = (getattr(kernel, "length", None) for kernel in kernels)
    return min((n for n in made_for if n is not None), default=None)


def shortened(model: nn.Module, asked: int) -> list[str]:
    """A warning where a kernel cuts texts at fewer tokens than asked, and than positions allow."""
    most = kernel_length(model)
    if most is None or most >= min(asked, _table(model) or asked):
        return []
    return [
        f"texts longer than {most} tokens are cut: the attention of {name_of(model)} is built for "
        "that length"
    ]


def _table(model: nn.Module) -> int | None:
    configured = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if configured is None:
        return None
    tables = [
        m
        for m in model.modules()
        if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings()
    ]
    words = getattr(model.get_input_embeddings(), "weight", None)
    limits = [
        min(
            configured,
            table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1),
        )
        for table in tables
        if configured <= table.num_embeddings <= configured + 8 and table.weight is not words
    ]  # some tables have a few more rows than positions, or start after the row of the padding
    return min(limits, default=None)


def logits_at(model: nn.Module, own: nn.Module, inputs: dict[str, Any], places: Tensor) -> Tensor:
    """Logits (M, V), float32, of a language-model head at these places (B, N), in their order.
    `own` is the model, `model` what wraps it.

    The head is given the hidden states of these places alone. It treats each token by itself, and
    all other tokens would cost a small model more than its body does."""
    few = False

    def kept(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal few
        few = "last_hidden_state" in output  # some bases give logits, or call a part of their own
        if few:
            output["last_hidden_state"] = output["last_hidden_state"][places][None]
        return output

    with own.base_model.register_forward_hook(kept):
        output = model(**inputs)
    logits = output["logits"] if "logits" in output else output["prediction_logits"]
    return (logits[0] if few else logits[places]).float()


def before(wanted: Tensor) -> Tensor:
    """Where the wanted tokens (B, N) are predicted, one place to the left; never the first one."""
    return wanted.roll(-1, 1)


def shifted(model: nn.Module, ids: Tensor) -> Tensor:
    """Decoder inputs (B, N) of the targets (B, N): one place to the right, start token first."""
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    starts = [getattr(model.config, name, None) for name in names]
    first = torch.full_like(ids[:, :1], next((s for s in starts if s is not None), 0))
    return torch.cat([first, ids[:, :-1]], 1)


def last_hidden(model: nn.Module, batch: Batch, encoder: bool = False) -> Tensor:
    """The last hidden state (B, N, E), float32. Of an encoder-decoder it is that of the decoder, or
    that of the encoder if asked for."""
    base: Any = model.base_model
    inputs: dict[str, Any] = inputs_of(base, batch)
    if not takes(base, "decoder_input_ids"):
        return base(**inputs).last_hidden_state.float()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    read = base.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
    if encoder:
        return read.float()
    decoder = base.get_decoder()
    return decoder(
        input_ids=shifted(model, ids),
        encoder_hidden_states=read,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state.float()


def streamed(
    stack: ExitStack,
    model: nn.Module,
    tokenizer: Any,
    texts: list[str],
    batch: int = 32,
    max_length: int = 128,
    tick: Tick | None = None,
    encoder: bool = False,
) -> Iterator[tuple[Batch, Tensor]]:
    """(batch, last hidden state (B, N, E)) of each batch; the batches depend on the tokenizer only.
    `encoder`: as `last_hidden` takes it.

    The model stays in evaluation mode until the stack is left.
    """
    stack.enter_context(evaluating(model))
    stack.enter_context(torch.no_grad())
    max_length = min(max_length, position_limit(model) or max_length)
    for part in batches(tokenizer, texts, batch, max_length):
        yield part, last_hidden(model, part, encoder)
        if tick:
            tick(len(part.indices))


def hidden_states(
    model: nn.Module,
    tokenizer: Any,
    texts: list[str],
    batch: int = 32,
    max_length: int = 128,
    tick: Tick | None = None,
) -> list[Tensor]:
    """The last hidden state of each text, (N, E) without padding, float32 on the CPU."""
    states: list[Tensor] = [torch.empty(0)] * len(texts)
    with ExitStack() as stack:
        for part, hidden in streamed(stack, model, tokenizer, texts, batch, max_length, tick):
            for row, index in enumerate(part.indices):
                states[index] = (
                    hidden[row, : int(part.inputs["attention_mask"][row].sum())].cpu().clone()
                )
    return states


def relative_error(a: list[Tensor] | Tensor, b: list[Tensor] | Tensor) -> float:
    """Frobenius norm of a - b relative to that of b, summed in float64 over all tensors."""
    pairs = [(a, b)] if isinstance(a, Tensor) else list(zip(a, b, strict=True))
    wrong = sum(float((x.double() - y.double()).square().sum()) for x, y in pairs)
    return (wrong / sum(float(y.double().square().sum()) for _, y in pairs)) ** 0.5
