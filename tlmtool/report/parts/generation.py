"""The parts `generations` and `samples` of a report: what language models write, and how fast."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tlmtool.report.figures import View, figure, share
from tlmtool.report.layout import Document, Part, entry
from tlmtool.report.parts.quality import line

NOTHING = "(no text)"
ENDED = (
    "a model ended its answer at once; its speed is then mostly that of reading the prompt; --raw "
    "gives the prompt without a chat template"
)


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a model wrote in all."""

    id: str = entry("the model")
    tokens: int = entry("new tokens of all texts", "tokens")
    seconds: float = entry("time that they took; reading the prompts is part of it", "s")
    tokens_per_second: float = entry("new tokens a second, one text at a time", "tokens/s")


@dataclass(frozen=True, kw_only=True)
class Written:
    """A prompt, and what each model made of it."""

    prompt: str = entry("the prompt")
    texts: tuple[str, ...] = entry("what each model wrote, in the order of `generations`")
    loops: tuple[bool, ...] = entry("whether the text ends in a loop")
    same: int | None = entry(
        "number of first tokens that both texts share, where both models have the same tokens",
        "tokens",
        optional=True,
    )


@dataclass(frozen=True, kw_only=True)
class Generations(Part):
    """Texts of one model, or of two side by side."""

    verbs: ClassVar = {"generate": ""}

    generations: tuple[Generated, ...] = entry("the models", count="models")
    samples: tuple[Written, ...] = entry("the prompts and texts")
    how: str = entry("how tokens were chosen, and what the models were given")

    def views(self, report: Document, full: bool) -> list[View]:
        names = _names([each.id for each in self.generations])
        rows = []
        for each in self.samples:
            rows.append(["prompt", line(each.prompt)])
            for name, text, loop in zip(names, each.texts, each.loops, strict=True):
                rows.append([f"{name}, in a loop" if loop else name, line(text) or NOTHING])
            if each.same is not None:
                rows.append(["", f"({each.same} first tokens are the same)"])
        first = self.generations[0].tokens_per_second
        speed = [
            [name, str(e.tokens), figure(e.seconds, 1), figure(e.tokens_per_second, 1)]
            + ([share(e.tokens_per_second, first)] if len(names) > 1 else [])
            for name, e in zip(names, self.generations, strict=True)
        ]
        header = ["model", "tokens", "seconds", "tokens/s"]
        header += ["/ first"] if len(names) > 1 else []
        return [View("samples", ["", "text"], rows), View("speed", header, speed)]

    def facts(self, report: Document, full: bool) -> list[tuple[str, str]]:
        found = [("how", self.how)]
        if any(not line(text) for each in self.samples for text in each.texts):
            found.append(("no text", ENDED))
        return found


def _names(ids: list[str]) -> list[str]:
    """The last part of each path, or the whole paths where these are the same."""
    short = [Path(each).name or each for each in ids]
    return short if len({*short}) == len(short) else ids
