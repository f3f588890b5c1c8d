"""The parts `sites` and `left_dense` of a report: the factorized sites, and those left dense."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from tlmtool.report.figures import View, described, figure, mean, share
from tlmtool.report.layout import Document, Part, entry

MANY_SITES = 16  # a report with more sites shows them by role, unless -v asks for each
ERRORS = {  # field of a site: its column
    "weight_error": "weight",
    "svd_weight_error": "svd",
    "output_error": "output",
    "svd_output_error": "svd",
    "best_output_error": "best",
}
ERRORS_NOTE = (
    "weight, output: relative error of the factors against what they were fitted to, as a weight "
    "and as an output on the calibration text; svd: the same of a plain SVD with as many "
    "parameters; best: of an SVD weighted by the text"
)

NARROW_NOTE = (
    "; narrow: the first layers of an MLP lose the rows of the neurons that go, and the last one "
    "is fitted to make up for them"
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """A linear layer that is held as factors."""

    site: str = entry("its path in the model")
    role: str = entry("what it is for, such as query or up")
    shape: tuple[int, int] = entry("out and in features of the weight")
    decomposition: dict[str, Any] = entry("name and settings of the decomposition")
    parameters: int = entry("parameters of its factors", "parameters")
    keep: float = entry("share of the weight's parameters that is kept")
    weight_error: float = entry("relative error of the factors against what they were fitted to")
    svd_weight_error: float = entry("the same of a plain SVD with as many parameters")
    output_error: float | None = entry(
        "relative error of its output on the calibration text", when="weighed"
    )
    svd_output_error: float | None = entry(
        "the same of a plain SVD with as many parameters", when="weighed"
    )
    best_output_error: float | None = entry(
        "the same of an SVD that is weighted by the text", when="weighed"
    )


@dataclass(frozen=True, kw_only=True)
class LeftDense:
    """A site that was chosen and is not factorized."""

    site: str = entry("its path in the model")
    reason: str = entry("why it stayed dense")


@dataclass(frozen=True, kw_only=True)
class Sites(Part):
    """What became of each chosen site."""

    verbs: ClassVar = {"compress": ""}

    sites: tuple[Site, ...] = entry("the factorized sites", when="written budget", optional=False)
    left_dense: tuple[LeftDense, ...] = entry("the sites that stayed dense")

    def views(self, report: Document, full: bool) -> list[View]:
        return [_sites(self.sites, full), _dense(self.left_dense, full)]


def _sites(sites: tuple[Site, ...], full: bool) -> View:
    if full or len(sites) <= MANY_SITES:
        header = ["site", "decomposition", "keep", *ERRORS.values()]
        rows = []
        for each in sites:
            errors = [figure(getattr(each, name)) for name in ERRORS]
            rows.append([each.site, described(each.decomposition), figure(each.keep), *errors])
        return View("factorized sites", header, rows, _note(sites))
    by_role: dict[str, list[Site]] = {}
    for each in sites:
        by_role.setdefault(each.role, []).append(each)
    header = ["role", "sites", "decomposition", "keep", *ERRORS.values()]
    rows = []
    for role, group in by_role.items():
        errors = [mean(getattr(each, name) for each in group) for name in ERRORS]
        rows.append([role, str(len(group)), _decompositions(group), _kept(group), *errors])
    note = f"means over the sites of a role, -v lists each site; {_note(sites)}"
    return View("factorized sites by role", header, rows, note)


def _note(sites: tuple[Site, ...]) -> str:
    """What the errors are, in words."""
    narrow = any(each.decomposition.get("name") == "narrow" for each in sites)
    return ERRORS_NOTE + NARROW_NOTE * narrow


def _kept(group: Iterable[Site]) -> str:
    """The share of all parameters of a group that is kept."""
    sizes = [(each.parameters, each.shape[0] * each.shape[1]) for each in group]
    return share(sum(kept for kept, _ in sizes), sum(dense for _, dense in sizes))


def _decompositions(group: list[Site]) -> str:
    """The one decomposition of a group, or how many sites have which: 'btd 5, svd 3'."""
    if len(same := {described(each.decomposition) for each in group}) == 1:
        return same.pop()
    names = Counter(str(each.decomposition.get("name", "?")) for each in group)
    if len(names) > 1:
        return ", ".join(f"{name} {count}" for name, count in names.most_common())
    ranks = [r for each in group if isinstance(r := each.decomposition.get("rank"), int)]
    word = "width" if "narrow" in names else "rank"
    return next(iter(names)) + (f" {word} {min(ranks)}-{max(ranks)}" if ranks else "")


def _dense(left: tuple[LeftDense, ...], full: bool) -> View:
    reasons: dict[str, list[str]] = {}
    for each in left:
        reasons.setdefault(each.reason, []).append(each.site)
    rows = []
    for reason, sites in reasons.items():
        shown = sites if full else sites[:1]
        more = f" and {len(sites) - 1} more" if len(shown) < len(sites) else ""
        rows.append([f"{', '.join(shown)}{more}", reason])
    return View("left dense", ["site", "why"], rows)
