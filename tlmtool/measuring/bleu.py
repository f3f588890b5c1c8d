"""Corpus BLEU by sacrebleu, from counts of each sentence, so that sentences can be resampled."""

import numpy as np

from tlmtool.failure import MissingDependency
from tlmtool.measuring.intervals import Statistic

EXTRA = "pip install 'tlmtool[translation]'"


class Bleu:
    """BLEU (Papineni et al. 2002) as sacrebleu defines it (Post 2018). Words are split by the rules
    of `language`, that of the target.

    Raises MissingDependency without sacrebleu, or without what it needs for that language.
    """

    def __init__(self, language: str | None = None):
        try:
            from sacrebleu.metrics import BLEU
        except ImportError as error:
            raise MissingDependency(f"BLEU needs the package `sacrebleu` ({EXTRA})") from error
        code = (language or "").partition("_")[0]
        try:
            self.corpus, self.single = (
                BLEU(trg_lang=code),
                BLEU(trg_lang=code, effective_order=True),
            )
        except (ImportError, RuntimeError) as error:
            raise MissingDependency(
                f"BLEU of {code} needs more of sacrebleu: pip install 'sacrebleu[{code}]'"
            ) from error

    def counts(self, found: list[str], true: list[str]) -> np.ndarray:
        """(n, 10): the length of a sentence and of its reference, the number of its 1- to 4-grams
        that are right, and the number of all of them."""
        scores = [self.single.sentence_score(a, [b]) for a, b in zip(found, true, strict=True)]
        return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])

    def statistic(self, counts: np.ndarray) -> Statistic:
        """BLEU of resampled sentences."""

        def of(index: np.ndarray) -> np.ndarray:
            return np.array([self._of(counts[i].sum(0).tolist()) for i in index])

        return of

    def _of(self, total: list[int]) -> float:
        settings = {"smooth_method": self.corpus.smooth_method}
        return self.corpus.compute_bleu(total[2:6], total[6:], *total[:2], **settings).score

    @property
    def signature(self) -> str:
        """The settings that the score depends on, as sacrebleu writes them."""
        self.corpus.corpus_score(["a"], [["a"]])  # sacrebleu knows them once it has scored
        return str(self.corpus.get_signature())
