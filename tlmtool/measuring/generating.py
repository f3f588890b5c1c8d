"""What a language model writes after a prompt, and how long it takes."""

import copy
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from tlmtool.data.batching import joined_ids
from tlmtool.failure import Usage, blaming
from tlmtool.measuring.inputs import check_token, name_of, takes
from tlmtool.measuring.outputs import position_limit
from tlmtool.measuring.passes import synchronize
from tlmtool.measuring.samples import looping
from tlmtool.models.architectures import architecture, base_type

PROMPTS = {  # {kind of a model: what it is given where no prompt is}
    "chat": (
        "What is the capital of France?",
        "Tell me in two sentences how rain forms.",
        "Write the first lines of a story about a lighthouse.",
    ),
    "causal": (
        "The capital of France is",
        "Once upon a time, there was",
        "The best way to learn a language is",
    ),
    "masked": (
        "The capital of France is [MASK].",
        "She opened the door and [MASK] into the room.",
        "Water freezes at zero [MASK].",
    ),
}
PROMPTS["sequences"] = ("The house is small, and it has a garden.", "Where is the next station?")
MASKS = re.compile(r"\[MASK\]|<mask>")
BEST = 5  # tokens that are shown for a mask


class Text(NamedTuple):
    """What a model wrote: its new tokens, their text, and the seconds they took."""

    ids: list[int]
    text: str
    seconds: float
    loops: bool = False


def kind_of(model: Any) -> str:
    """`masked`, `causal`, or `sequences` of an encoder-decoder: how a model writes. Raises Usage
    for a model without a head for that."""
    kind, type_ = type(model).__name__, base_type(str(model.config.model_type))
    if kind.endswith(architecture(type_).masked):
        return "masked"
    if type(model).can_generate():
        return "sequences" if model.config.is_encoder_decoder else "causal"
    raise Usage(
        f"{name_of(model)} is a {kind}, which has no head that predicts tokens, so it writes no "
        "text: tlm evaluate scores it, as with --task similarity or --task features"
    )


def spoken(tokenizer: Any) -> bool:
    """Whether there is a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


class Writer:
    """A model with its tokenizer, ready to continue prompts one at a time. `chat`: prompts are put
    into the chat template; `temperature` 0 takes the most likely token each time."""

    def __init__(
        self, model: Any, tokenizer: Any, chat: bool, tokens: int, temperature: float = 0.0
    ):
        self.model, self.tokenizer, self.chat = model, tokenizer, chat
        self.kind, self.tokens, self.temperature = kind_of(model), tokens, temperature

    def write(self, prompt: str, seed: int = 0, tokens: int | None = None) -> Text:
        """The text after a prompt. Raises Usage where the prompt does not fit the model."""
        inputs = self._inputs(prompt)
        check_token(self.model, int(inputs["input_ids"].max()))
        torch.manual_seed(seed)
        with torch.no_grad(), blaming(f"{name_of(self.model)} cannot continue a prompt"):
            if self.kind == "masked":
                return self._filled(inputs)
            return self._continued(inputs, tokens or self.tokens)

    def _inputs(self, prompt: str) -> dict[str, torch.Tensor]:
        if self.kind == "masked":
            return self._encoded(self._masked(prompt))
        if self.chat:
            turns = [{"role": "user", "content": prompt}]
            found = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            return self._taken(found)
        return self._encoded(prompt)

    def _encoded(self, text: str) -> dict[str, torch.Tensor]:
        if self.kind == "causal":  # an end that the tokenizer adds would end the text
            ids = torch.tensor([joined_ids(self.tokenizer, text)], dtype=torch.long)
            return self._taken({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return self._taken(self.tokenizer(text, return_tensors="pt"))

    def _taken(self, encoded: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """What the model takes of encoded text, on its device."""
        if not encoded["input_ids"].numel():
            raise Usage("a prompt gives no tokens: give a longer one")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        names = [name for name in names if name in encoded and takes(self.model, name)]
        return {name: encoded[name].to(self.model.device) for name in names}

    def _masked(self, prompt: str) -> str:
        mask = self.tokenizer.mask_token
        if mask is None:
            raise Usage(f"the tokenizer of {name_of(self.model)} has no mask")
        found = MASKS.sub(lambda _: str(mask), prompt)
        if mask not in found:
            raise Usage(
                f"{name_of(self.model)} fills in masks, and the prompt has none: write [MASK] for "
                "the word that it should find"
            )
        return found

    def _continued(self, inputs: dict[str, torch.Tensor], tokens: int) -> Text:
        read, limit = inputs["input_ids"].shape[1], position_limit(self.model)
        causal = self.kind == "causal"
        if limit is not None and read + causal > limit:
            raise Usage(f"a prompt has {read} tokens, and {name_of(self.model)} reads {limit}")
        room = tokens if limit is None or not causal else min(tokens, limit - read)
        settings = self._settings(min(room, limit - 1) if limit else room)
        synchronize(self.model.device)
        begun = time.perf_counter()
        made = self.model.generate(**inputs, generation_config=settings)
        synchronize(self.model.device)
        seconds = time.perf_counter() - begun
        ids: list[int] = made[0, read if causal else 1 :].tolist()
        text = self.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return Text(ids, text, seconds, looping(ids))

    def _settings(self, tokens: int) -> Any:
        """The generation config of the model, with what was asked for instead of its sampling."""
        found = copy.deepcopy(self.model.generation_config)
        draws = self.temperature > 0
        changes: dict[str, Any] = {"max_new_tokens": tokens, "max_length": None, "num_beams": 1}
        changes |= {"do_sample": draws, "temperature": self.temperature if draws else None}
        changes |= {"early_stopping": False, "length_penalty": 1.0}
        if not draws:
            changes |= {"top_k": None, "top_p": None}
        for name, value in changes.items():
            setattr(found, name, value)
        if found.pad_token_id is None:
            ends = found.eos_token_id
            found.pad_token_id = ends[0] if isinstance(ends, list) else ends
        return found

    def _filled(self, inputs: dict[str, torch.Tensor]) -> Text:
        synchronize(self.model.device)
        begun = time.perf_counter()
        output = self.model(**inputs)
        synchronize(self.model.device)
        seconds = time.perf_counter() - begun
        logits = output["logits"] if "logits" in output else output["prediction_logits"]
        masks = inputs["input_ids"][0] == self.tokenizer.mask_token_id
        shares, found = logits[0, masks].float().softmax(-1).topk(BEST)
        told = [
            ", ".join(
                f"{self.tokenizer.decode([token]).strip()} {share:.2f}"
                for share, token in zip(each, ids, strict=True)
            )
            for each, ids in zip(shares.tolist(), found.tolist(), strict=True)
        ]
        return Text(found[:, 0].tolist(), " | ".join(told), seconds)


def shared(one: list[int], other: list[int]) -> int:
    """The number of first tokens that two texts share.

    >>> shared([5, 6, 7], [5, 6, 8, 9])
    2
    """
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
