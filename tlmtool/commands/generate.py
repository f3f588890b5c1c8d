"""The verb generate: Recipe -> Report."""

from typing import Any

from tlmtool.commands.run import Run
from tlmtool.data.reading import texts as texts_of
from tlmtool.failure import NotLoadable
from tlmtool.measuring.generating import PROMPTS, Text, Writer, kind_of, shared, spoken
from tlmtool.models.checkpoint import load_tokenizer
from tlmtool.models.folder import Folder
from tlmtool.recipe.building import Recipe
from tlmtool.report.parts.generation import Generated, Generations, Written
from tlmtool.report.parts.model import Model
from tlmtool.report.report import Report

WARM = 2  # tokens that each model writes before any are timed


def generate(recipe: Recipe) -> Report:
    """What a language model makes of prompts, alone or beside a second one, and how fast."""
    wanted = recipe.generation
    with Run(recipe) as run:
        folders = [Folder.of(recipe.model, recipe.revision)]
        if wanted.against:
            folders.append(Folder.of(wanted.against))
        for folder in folders:  # refused before any weights are loaded
            empty = run.empty(folder)
            empty.name_or_path = folder.asked
            kind_of(empty)
        prompts = _given(recipe)
        writers = [_writer(run, folder) for folder in folders]
        first = writers[0]
        kind = "chat" if first.chat and first.kind != "masked" else first.kind
        prompts = prompts or [*PROMPTS[kind]]
        with run.stage("generate"):
            texts = _texts(run, writers, prompts)
        part = _part(folders, prompts, texts, writers, recipe)
        return run.report(
            [
                Model(
                    id=recipe.model,
                    class_=type(first.model).__name__,
                    type=first.model.config.model_type,
                ),
                part,
            ]
        )


def _given(recipe: Recipe) -> list[str]:
    """The prompts that were given."""
    wanted = recipe.generation
    if wanted.prompts is not None:
        return texts_of(wanted.prompts)
    return [] if wanted.prompt is None else [wanted.prompt]


def _writer(run: Run, folder: Folder) -> Writer:
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        raise NotLoadable(f"{folder} has no tokenizer: generate turns text into tokens with it")
    wanted, model = run.recipe.generation, run.load(folder)
    chat = spoken(tokenizer) and not wanted.raw
    return Writer(model, tokenizer, chat, wanted.tokens, wanted.temperature)


def _texts(run: Run, writers: list[Writer], prompts: list[str]) -> list[list[Text]]:
    """The texts of each prompt, by model. The models take turns, so that a machine that gets slower
    does not favour one."""
    for writer in writers:
        writer.write(prompts[0], tokens=WARM)
    found: list[list[Text]] = []
    for place, prompt in enumerate(prompts):
        run.bars("generating", place, len(prompts))
        found.append([writer.write(prompt, run.recipe.seed + place) for writer in writers])
    return found


def _part(
    folders: list[Folder],
    prompts: list[str],
    texts: list[list[Text]],
    writers: list[Writer],
    recipe: Recipe,
) -> Generations:
    first, models = writers[0], []
    words = [each.tokenizer.get_vocab() for each in writers]
    alike = len(words) > 1 and words[0] == words[1]  # else the same token is another word
    for place, folder in enumerate(folders):
        own = [each[place] for each in texts]
        tokens, seconds = sum(len(each.ids) for each in own), sum(each.seconds for each in own)
        speed = tokens / seconds
        models.append(
            Generated(id=folder.asked, tokens=tokens, seconds=seconds, tokens_per_second=speed)
        )
    samples = tuple(
        Written(
            prompt=prompt,
            texts=tuple(each.text for each in both),
            loops=tuple(each.loops for each in both),
            same=shared(both[0].ids, both[1].ids) if alike else None,
        )
        for prompt, both in zip(prompts, texts, strict=True)
    )
    how = _how(first, any(each.chat for each in writers), recipe)
    return Generations(generations=tuple(models), samples=samples, how=how)


def _how(first: Writer, chat: bool, recipe: Recipe) -> str:
    """How tokens were chosen, in words."""
    if first.kind == "masked":
        return "the most likely words of each mask, with their probabilities; | parts masks"
    wanted: Any = recipe.generation
    drawn = f"drawn at temperature {wanted.temperature:g}, seed {recipe.seed}"
    chosen = drawn if wanted.temperature else "the most likely token each time"
    template = "prompts in the chat template of a model that has one (--raw: as they are)"
    given = template if chat else "prompts as they are"
    return f"{chosen}, at most {wanted.tokens}; {given}; one text at a time, keys and values cached"
