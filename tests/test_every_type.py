"""Every text type of transformers: all its linears are factorized, re-loaded exactly and merged.

A part of the types is tried in every run, all of them where TLM_EVERY_TYPE is set, as in .ci/run.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from every_type import MAPPINGS

LANGUAGE = [kinds for head, kinds in MAPPINGS.items() if head != "AutoModelForTextEncoding"]
TYPES = sorted({kind for kinds in LANGUAGE for kind in kinds})
ENCODERS = sorted({*MAPPINGS["AutoModelForTextEncoding"]} - {*TYPES})
MANY = "TLM_EVERY_TYPE"  # in the environment: try all types
LEAST = 230  # types that must work whole, of those with a head for language
BATCH = 12  # types that share a process; more of them wait longer for the slowest
# {type, or type and Auto class: why it cannot be factorized, re-loaded and merged}. It may only
# shrink: a pair that is listed and works fails the test.
ALONE = "the text model inside is saved as a type that no Auto class of transformers loads"
ASSISTANT = "it reads the keys and values of the model that it assists, so it cannot run alone"
NOT_MADE = "AutoModelForCausalLM of transformers cannot make it from the config of its type"
CANNOT: dict[str, str] = {
    "emu3": ALONE,
    "gemma3n": "its vision part needs the package timm",
    "gemma4_assistant": ASSISTANT,
    "gemma4_unified_assistant": ASSISTANT,
    "ibert": "its linears are quantized modules of its own, so there is no site",
    "llama4 AutoModelForTextEncoding": ALONE,
    "mllama": ALONE,
    "musicgen": NOT_MADE,
    "musicgen_melody": NOT_MADE,
    "rwkv": "in evaluation it divides the weights of its linears in place",
    "voxtral_realtime": "its forward pass needs sound",
}
PART = (
    *("albert", "bart", "bert", "bloom", "deberta-v2", "electra", "falcon", "gemma2", "gemma3"),
    *("gpt2", "gpt_neox", "internlm3", "llama", "m2m_100", "mamba", "mixtral", "modernbert"),
    *(
        "mpnet",
        "mt5",
        "olmo2",
        "phi3",
        "qwen2_moe",
        "qwen3",
        "qwen3_5",
        "roberta",
        "falcon_h1",
        "t5",
    ),
    *("t5gemma", "xlm-roberta", "xlnet"),
)


def ran(verb: str, folder: Path, kinds: list[str]) -> list[list[str]]:
    """[type, Auto class, what went wrong] of the types, found in a process of their own."""
    script = Path(__file__).with_name("saved_types.py")
    words = [sys.executable, str(script), verb, str(folder), *kinds]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def tried(folder: Path, kinds: list[str]) -> dict[str, str]:
    """{type and Auto class: what went wrong, "" for nothing}; two batches of types at a time."""

    def batch(some: list[str]) -> list[list[str]]:
        return ran("save", folder, some) + ran("load", folder, some)

    batches = [kinds[i : i + BATCH] for i in range(0, len(kinds), BATCH)]
    found: dict[str, str] = {}
    with ThreadPoolExecutor(2) as pool:
        for kind, head, wrong in (each for part in pool.map(batch, batches) for each in part):
            found[f"{kind} {head}"] = found.get(f"{kind} {head}") or wrong
    return found


def allowed(pair: str) -> bool:
    return pair in CANNOT or pair.split()[0] in CANNOT


def test_a_part_of_the_types(tmp_path):
    assert len(PART) == 30 and not {*PART} - {*TYPES}
    wrong = {p: why for p, why in tried(tmp_path, list(PART)).items() if why and not allowed(p)}
    assert not wrong, "\n".join(f"{pair}: {why}" for pair, why in wrong.items())


def test_what_is_listed_exists():
    pairs = {f"{kind} {head}" for head, kinds in MAPPINGS.items() for kind in kinds}
    assert {*CANNOT} <= {*TYPES, *ENCODERS} | pairs
    assert len(TYPES) - len({key.split()[0] for key in CANNOT}) >= LEAST


@pytest.mark.skipif(not os.environ.get(MANY), reason=f"takes minutes: set {MANY}=1")
def test_every_type(tmp_path, capsys):
    found = tried(tmp_path, TYPES + ENCODERS)
    wrong = {pair: why for pair, why in found.items() if why and not allowed(pair)}
    works = [pair for pair in CANNOT if " " in pair and not found[pair]]
    works += [
        kind
        for kind in CANNOT
        if " " not in kind and not any(why for p, why in found.items() if p.split()[0] == kind)
    ]
    failed = {pair.split()[0] for pair, why in found.items() if why}
    good = [kind for kind in TYPES if kind not in failed]
    with capsys.disabled():
        pairs = sum(not why for why in found.values())
        print(f"\n{len(good)} of {len(TYPES)} model types, {pairs} of {len(found)} with a head")
    assert not wrong, "\n".join(f"{pair}: {why}" for pair, why in wrong.items())
    assert not works, f"listed in CANNOT, and works: {works}"
    assert len(good) >= LEAST
