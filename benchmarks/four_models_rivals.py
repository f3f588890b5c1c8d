"""Rivals of `tlm compress`: SVD with one share for every matrix, and rounding to few bits.

    python benchmarks/four_models_rivals.py svd minilm --keep 0.6 --out out/svd
    python benchmarks/four_models_rivals.py whitened minilm --keep 0.6 --calibration texts.txt \\
        --out out/whitened
    python benchmarks/four_models_rivals.py round minilm --bits 4 --out out/int4

`svd` is the best matrix of each rank (Eckart and Young). `whitened` is the form of SVD-LLM (Wang et
al. 2024): each error is weighted by the second moments of the inputs that the dense model gives.
`round` rounds each weight to the nearest of the levels of its group, and writes the result as
float32. Each writes a checkpoint that `tlm evaluate` reads, and prints its figures as JSON.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from tlmtool.commands.calibrating import material_of, resolved
from tlmtool.compression.calibration import prepared
from tlmtool.compression.candidates import Candidates, select
from tlmtool.compression.compress import TOKENS
from tlmtool.compression.statistics import Statistics
from tlmtool.data.batching import Batch
from tlmtool.measuring.profiling import PeakMemory
from tlmtool.models import checkpoint
from tlmtool.models.factorized import dense_weight
from tlmtool.models.folder import Folder
from tlmtool.models.modeling import adopt
from tlmtool.models.rounding import group_of, rounded
from tlmtool.models.saving import save
from tlmtool.models.surgery import Plan, factorize
from tlmtool.recipe.building import build

WIDE = 8  # the bits whose usual groups, of 64 weights, are taken for 4 bits too: tlm takes 32 there


def uniform(model: Any, roles: dict[str, str], keep: float) -> Plan:
    """{site: svd of the highest rank that holds at most this share of the site's parameters}."""
    sites, plan = Candidates(model, roles), Plan()
    for site in roles:
        o, i = sites.shape(site)
        if found := sites.largest(site, "svd", int(keep * o * i)):
            plan[site] = found
    return plan


@torch.no_grad()
def whiten(model: Any, roles: dict[str, str], plan: Plan, batches: list[Batch]) -> None:
    """Factorize, with each error weighted by E[x x^T] of the inputs x in the dense model."""
    for group, moments in Statistics(model, roles, batches).moments("factorizing"):
        for site in group:
            if site in plan:
                factorize(model, {site: plan[site]}, {site: moments.second})


@torch.no_grad()
def round_all(model: Any, roles: dict[str, str], bits: int, embeddings: bool) -> dict[str, int]:
    """Round every site, and with `embeddings` the table of tokens; how many numbers that were."""
    modules = [model.base_model.get_submodule(site) for site in roles]
    modules += [model.get_input_embeddings()] if embeddings else []
    found = {"bits": bits, "rounded": 0, "scales": 0}
    for module in modules:
        weight = dense_weight(module)
        group = group_of(weight.shape[1], WIDE) or weight.shape[1]
        weight.copy_(rounded(weight, bits, group))  # in place, so that a tied head follows
        found["rounded"] += weight.numel()
        found["scales"] += weight.numel() // group
    return found


def factorized(model: Any, roles: dict[str, str], given: argparse.Namespace) -> dict[str, float]:
    """Factorize every site by one share; the share of all that is kept, and the tokens read."""
    plan, sites = uniform(model, roles, given.keep), Candidates(model, roles)
    before = {site: sites.weight(site).numel() for site in roles}
    after = {site: sites.size(site, each) for site, each in plan.items()}
    batches = calibration(given, model) if given.kind == "whitened" else []
    if batches:
        whiten(model, roles, plan, batches)
    else:
        factorize(model, plan)
    adopt(model)
    tokens = sum(int(each.inputs["attention_mask"].sum()) for each in batches)
    return {"keep": sum((before | after).values()) / sum(before.values()), "tokens": tokens}


def made(given: argparse.Namespace) -> dict[str, Any]:
    """Makes the rival, writes it, and returns its figures."""
    folder = Folder.of(given.model)
    device = checkpoint.device_of(given.device)
    with PeakMemory(device) as memory:
        model = checkpoint.load(folder, dtype="float32", device=str(device))
        roles = select(model, given.sites.split(","))
        found: dict[str, Any] = (
            round_all(model, roles, given.bits, given.embeddings)
            if given.kind == "round"
            else factorized(model, roles, given)
        )
    save(model, given.out, source=folder)
    return found | {"peak_memory_bytes": memory.bytes}


def calibration(given: argparse.Namespace, model: Any) -> list[Batch]:
    """The batches that `tlm compress` calibrates on with the same flags."""
    flags = {"model": given.model, "calibration": given.calibration, "keep": given.keep}
    if given.calibration_tokens:
        flags["calibration-tokens"] = given.calibration_tokens
    recipe = resolved(build("compress", flags), model)
    tokenizer = checkpoint.load_tokenizer(Folder.of(given.model))
    texts = material_of(recipe, model, tokenizer, None).texts
    return prepared(model, tokenizer, texts, recipe.calibration.max_length, TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=["svd", "whitened", "round"])
    parser.add_argument("model", help="a folder or a name that tlm knows")
    parser.add_argument("--out", required=True, type=Path, help="folder for the checkpoint")
    parser.add_argument("--sites", default="attention,ffn", help="as of tlm compress")
    parser.add_argument("--keep", type=float, help="share of each site's parameters")
    parser.add_argument("--bits", type=int, default=4, help="bits of a rounded weight")
    parser.add_argument("--embeddings", action="store_true", help="round the table of tokens too")
    parser.add_argument("--device", default="auto", help="as of tlm compress")
    parser.add_argument("--calibration", help="as of tlm compress")
    parser.add_argument("--calibration-tokens", type=int, help="as of tlm compress")
    given = parser.parse_args()
    if given.kind != "round" and given.keep is None:
        parser.error(f"{given.kind} needs --keep")
    print(json.dumps(made(given)))


if __name__ == "__main__":
    main()
