"""Fitting: the sites of one model, their statistics, and the swap of each."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from tlmtool.compression import allocation, calibration
from tlmtool.compression.calibration import Moments
from tlmtool.compression.lockstep import Fit, Lockstep, stacks_of
from tlmtool.compression.planning import Draft, Forms, best_form, model_weight, spectrum_of, take
from tlmtool.data.tasks import Batch
from tlmtool.decompositions import Decomposition
from tlmtool.decompositions.base import root, weigh
from tlmtool.decompositions.svd import SVD, spectrum
from tlmtool.failure import Usage
from tlmtool.measuring.counting import count_bytes
from tlmtool.measuring.profiling import release_memory
from tlmtool.models.factorized import set_weight
from tlmtool.models.surgery import factorize

RIDGE = 0.1  # pull of a fitted target towards W, of the mean diagonal of the input covariance
ROOM = 300 * 2**20  # bytes of statistics held at once, at least
TOKENS = 256  # in a batch of the backward pass
Progress = Callable[[str, int, int], None]


class Job:
    """One run of `compress`: the model, its chosen sites and the calibration batches."""

    def __init__(
        self,
        model: Any,
        roles: dict[str, str],
        batches: list[Batch],
        forms: Forms,
        progress: Progress | None,
        seed: int,
        sensitive: bool,
    ):
        self.model, self.roles, self.batches, self.forms = model, roles, batches, forms
        self.seed, self.sensitive = seed, sensitive and bool(batches)
        self.shelf = calibration.Shelf(ROOM / 4)
        self.measured: list[tuple] = []  # what `metrics` gave, where it fits into memory at once
        self.progress = progress or (lambda what, done, total: None)
        self.linears = [s for s, role in roles.items() if role != "embedding"]
        self.groups = (
            calibration.groups_of(model, self.linears, batches[0])
            if batches and self.linears
            else [[s] for s in self.linears]
        )
        if idle := sorted({*self.linears} - {s for group in self.groups for s in group}):
            raise Usage(
                f"{len(idle)} sites such as {idle[0]} read nothing when texts run through the "
                "model: ignore them, or give no calibration text"
            )

    def _bias(self, site: str) -> Tensor | None:
        bias = getattr(self.model.base_model.get_submodule(site), "bias", None)
        return None if bias is None else bias.detach().double()

    def _metric(self, site: str, moments: Moments | None) -> Tensor | None:
        """What weighs the error of a site; the mean's part is left to its bias."""
        return moments and moments.metric(self._bias(site) is not None)

    def moments(self) -> Iterator[tuple[list[str], Moments | None]]:
        """(group, moments of its input in the dense model), a part of the groups at a time where
        all covariances at once would outgrow half of the model's bytes; None without texts."""
        if not self.batches:
            yield from ((group, None) for group in self.groups)
            return
        if self.measured:
            yield from self.measured
            return
        part: list[list[str]] = []
        size = {tuple(g): self._bytes(g) for g in self.groups}
        for k, group in enumerate(self.groups):
            part.append(group)
            after = self.groups[k + 1 :]
            if after and sum(size[tuple(g)] for g in [*part, after[0]]) <= self._room():
                continue

            def tick(done: int, at: int = k) -> None:
                self.progress("calibrating", at, len(self.groups))

            found = calibration.input_moments(self.model, part, self.batches, tick)
            self._sense([site for group in part for site in group])
            if len(part) == len(self.groups):
                self.measured = list(zip(part, found, strict=True))
            while part:
                yield part.pop(0), found.pop(0)

    def _room(self) -> float:
        """Bytes that statistics may take at once: half of the model's, or a floor."""
        return max(0.5 * count_bytes(self.model), ROOM)

    def _bytes(self, group: list[str]) -> int:
        outputs = sum(self.forms.shape(site)[0] ** 2 for site in group) if self.sensitive else 0
        return 8 * (self.forms.shape(group[0])[1] ** 2 + outputs)

    def _sense(self, sites: list[str]) -> None:
        """Measure and keep the output metrics of sites, once."""
        if self.sensitive and sites[0] not in self.shelf.kept:
            small = calibration.split(self.batches, TOKENS)
            found = calibration.output_metrics(self.model, sites, small, self.seed)
            for site in list(found):
                self.shelf.put(site, found.pop(site).float())

    def _output_metric(self, site: str) -> Tensor | None:
        return self.shelf.get(site, self.model.device)

    def _embedding_metric(self, site: str) -> Tensor | None:
        if not self.batches:
            return None
        rows = self.forms.shape(site)[0]
        return calibration.token_frequencies(self.batches, rows)

    def allocated(self, keep: float | None, energy: float | None, method: str, how: str) -> Draft:
        """The plan of a budget: spectra of all sites, then parameters, then the form of each."""
        spectra: dict[str, allocation.Spectrum] = {}
        tables = [s for s in self.roles if s not in self.linears]
        for site in tables:
            self._sense([site])
            weight, metric = model_weight(self.model, site), self._embedding_metric(site)
            g, energy_of = self._output_metric(site), weigh(weight, root(metric, weight.device))
            unit = energy_of.square().sum() if g is None else 1.0
            spectra[site] = spectrum_of(weight, metric, g, float(unit))
        for group, moments in self.moments():
            for site in group:
                weight = model_weight(self.model, site)
                unit = weight.square().sum() if moments is None else moments.energy(weight)
                g, metric = self._output_metric(site), self._metric(site, moments)
                spectra[site] = spectrum_of(weight, metric, g, float(unit) if g is None else 1.0)
        spectra = {site: spectra[site] for site in self.roles}
        if energy is not None:
            budgets = allocation.by_energy(spectra, energy)
        else:
            budgets = getattr(allocation, how)(spectra, keep)
        draft, spare = Draft(), 0

        def choose(site: str, metric: Tensor | None) -> None:
            nonlocal spare
            self.progress("choosing forms", len(draft.plan), len(budgets))
            weight, g = model_weight(self.model, site), self._output_metric(site)
            form = best_form(self.forms, site, method, budgets[site] + spare, weight, metric, g)
            take(draft, self.forms, site, form)
            if keep is not None:  # what the ranks of a form leave of its budget, the next site has
                taken = draft.plan.get(site)
                size = self.forms.size(site, taken) if taken else weight.numel()
                spare += budgets[site] - size

        for site in tables:
            choose(site, None)
        unmeasured = ((group, None) for group in self.groups)
        for group, moments in self.moments() if method == "auto" else unmeasured:
            for site in group:
                choose(site, self._metric(site, moments))
        draft.plan = {s: draft.plan[s] for s in self.roles if s in draft.plan}
        return draft

    def fit(self, draft: Draft, sequential: bool) -> list[dict]:
        """Swap the sites of the draft, in the order in which the model runs them."""
        records = []
        dense = _twin(self.model) if sequential else None
        for site in (s for s in self.roles if s not in self.linears):
            records += self._embed(site, draft.plan.get(site))
        if not sequential:
            for k, (group, moments) in enumerate(self.moments()):
                self.progress("factorizing", k, len(self.groups))
                fit = moments and Fit(moments.count, moments.mean, moments.second)
                records += [self._swap(s, draft.plan.get(s), fit) for s in group]
        else:
            records += self._fit_in_lockstep(draft, dense)
        order = {site: k for k, site in enumerate(self.roles)}
        return sorted(filter(None, records), key=lambda r: order[r["site"]])

    def _fit_in_lockstep(self, draft: Draft, dense: nn.Module) -> list[dict]:
        self.measured = []
        pair, records, before = Lockstep(dense, self.model, self.batches), [], ""
        pair.same = dense_is(self.model, dense)
        for k, (stack, index, group) in enumerate(stacks_of(self.model, self.groups)):
            self.progress("factorizing", k, len(self.groups))
            if before and stack != before:
                while pair.at[before] < len(self.model.base_model.get_submodule(before)):
                    pair.advance(before)
            while stack and pair.at.setdefault(stack, 0) < index:
                pair.advance(stack)
            before = stack
            fit = pair.measure(group, self.roles[group[0]] in ("output", "down"))
            records += [self._swap(site, draft.plan.get(site), fit) for site in group]
            pair.same, fit = False, None  # the next is measured without the last in memory
            release_memory()
        return records

    def _swap(self, site: str, form: Decomposition | None, fit: Fit | None) -> dict | None:
        """Fit a site's target to its inputs and factorize it. A site without a form stays dense,
        with the target as its weight."""
        module = self.model.base_model.get_submodule(site)
        weight, bias = model_weight(self.model, site), self._bias(site)
        trainable = module.weight.requires_grad
        target, mean = fit.target(weight, bias, RIDGE) if fit is not None else (weight, None)
        metric = self._metric(site, fit)
        if target is not weight:
            set_weight(module, target)
        if form is not None:
            g = self._output_metric(site) if form.takes_output_metric else None
            factorize(self.model, {site: form}, {site: metric}, {site: g})
        reached, now = model_weight(self.model, site), self.model.base_model.get_submodule(site)
        if mean is not None:
            corrected = nn.Parameter((mean - reached @ fit.mean).to(module.bias.dtype))
            now.set_bias(corrected) if form is not None else setattr(now, "bias", corrected)
        now.requires_grad_(trainable)
        return form and self._record(site, form, target, reached, metric)

    def _embed(self, site: str, form: Decomposition | None) -> list[dict]:
        if form is None:
            return []
        metric = self._embedding_metric(site)
        weight = model_weight(self.model, site)
        trainable = self.model.base_model.get_submodule(site).weight.requires_grad
        factorize(self.model, {site: form}, {site: metric}, {site: self._output_metric(site)})
        self.model.base_model.get_submodule(site).requires_grad_(trainable)
        return [self._record(site, form, weight, model_weight(self.model, site), metric)]

    def _record(
        self, site: str, form: Decomposition, target: Tensor, reached: Tensor, metric: Tensor | None
    ) -> dict:
        """The figures of one site: relative errors of its factors against the target that they
        were fitted to, beside those of an SVD of it with as many parameters, plain and weighted."""
        o, i = self.forms.shape(site)
        size = form.parameters(o, i)
        rank = max(1, min(size // (o + i), o, i))
        plain = SVD(rank=rank)
        rival = plain.reconstruct(plain.decompose(target))
        record = {
            "site": site,
            "role": self.roles[site],
            "shape": [o, i],
            "decomposition": form.to_dict(),
            "parameters": size,
            "keep": size / (o * i),
            "weight_error": relative(reached - target, target, None),
            "svd_weight_error": relative(rival - target, target, None),
        }
        if metric is not None:
            s = root(metric, target.device)
            values = spectrum(target, s)
            record |= {
                "output_error": relative(reached - target, target, s),
                "svd_output_error": relative(rival - target, target, s),
                "best_output_error": float((values[rank:].sum() / values.sum()).sqrt()),
            }
        return record


def relative(off: Tensor, weight: Tensor, s: Tensor | None) -> float:
    """|off s| / |W s|"""
    return float(weigh(off, s).norm() / weigh(weight, s).norm().clamp_min(1e-300))


def _twin(model: nn.Module) -> nn.Module:
    """The same model once more, sharing every tensor: stays dense while the first is swapped."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(t): t for t in tensors})


def dense_is(model: nn.Module, dense: nn.Module) -> bool:
    """Nothing has been swapped yet."""
    return [type(m) for m in model.modules()] == [type(m) for m in dense.modules()]
