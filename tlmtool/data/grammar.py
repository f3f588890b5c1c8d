"""An acceptability task from a small grammar of English: right sentences, and ones with an error.

A wrong sentence is a right one with one error: a verb, an auxiliary or a reflexive that does not
agree with its subject, or two words that have changed places. Both kinds use the same words, so
that counting words does not tell them apart.
"""

import random
from collections.abc import Callable

COUNT, SEED = 4000, 20  # sentences, and the seed of all of them; others make another task


def _words(text: str) -> list[str]:
    return text.split()


NOUNS = _words(
    "actor artist author baker boy captain child cousin dancer doctor driver farmer friend guard "
    "guest judge king lawyer neighbor nurse painter pilot poet sailor singer student teacher "
    "tourist waiter writer"
)
PLURALS = {"child": "children"}
THINGS = _words("box car door garden house key lamp letter picture river ship table tower window")
PLACES = _words("near behind beside opposite")
VERBS = {  # with an object: {third person: plural}
    f"{each}s": each
    for each in _words("admire avoid blame chase follow greet help know like see thank visit")
}
ALONE = {f"{each}s": each for each in _words("arrive complain laugh listen sing sleep smile wait")}
SELF = {f"{each}s": each for each in _words("admire blame describe hurt prepare praise trust")}
AUXILIARIES = {"is": "are", "was": "were", "has": "have", "does": "do"}
ADJECTIVES = _words("brave clever famous gentle happy kind lazy noisy old proud quiet rich tall")
ADVERBS = _words("again always early here late loudly often quietly today well")
SELVES = ("himself", "themselves")
SINGULAR, PLURAL = ("the", "this", "that", "every"), ("the", "these", "those", "many")

Words = list[str]
Sentence = tuple[Words, list[tuple[int, str]]]  # words, and the places where another one is wrong


class _Draw:
    """Parts of sentences, drawn from one random stream."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)
        self.pick: Callable = self.draw.choice

    def noun(self, plural: bool, among: Words = NOUNS) -> Words:
        noun = self.pick(among)
        many = PLURALS.get(noun, f"{noun}es" if noun.endswith("x") else f"{noun}s")
        adjective = [self.pick(ADJECTIVES)] if self.draw.random() < 0.3 else []
        return [self.pick(PLURAL if plural else SINGULAR), *adjective, many if plural else noun]

    def any(self, among: Words = NOUNS) -> Words:
        return self.noun(self.draw.random() < 0.5, among)

    def subject(self, plural: bool) -> Words:
        """A noun, often with another of either number between it and its verb."""
        kind = self.draw.random()
        if kind < 0.35:
            return self.noun(plural)
        if kind < 0.7:
            return [*self.noun(plural), self.pick(PLACES), *self.any(NOUNS + THINGS)]
        other = self.draw.random() < 0.5
        verb = self.pick(list(VERBS))
        return [*self.noun(plural), "that", *self.noun(other), VERBS[verb] if other else verb]

    def sentence(self) -> Sentence:
        plural, kind = self.draw.random() < 0.5, self.draw.random()
        subject = self.subject(plural)
        at = len(subject)

        def agreeing(plurals: dict[str, str]) -> tuple[str, str]:
            one = self.pick(list(plurals))
            return (plurals[one], one) if plural else (one, plurals[one])

        if kind < 0.3:  # the guests near the door laugh
            right, wrong = agreeing(ALONE)
            return [*subject, right, self.pick(ADVERBS)], [(at, wrong)]
        if kind < 0.55:  # the guests near the door admire the king
            right, wrong = agreeing(VERBS)
            return [*subject, right, *self.any(NOUNS + THINGS)], [(at, wrong)]
        if kind < 0.75:  # the boy near the cars blames himself
            right, wrong = agreeing(SELF)
            self_right, self_wrong = SELVES[plural], SELVES[not plural]
            return [*subject, right, self_right], [(at, wrong), (at + 1, self_wrong)]
        copula = {one: AUXILIARIES[one] for one in ("is", "was")}
        if kind < 0.9:  # the keys near the table are old
            right, wrong = agreeing(copula)
            return [*subject, right, self.pick(ADJECTIVES)], [(at, wrong)]
        right, wrong = agreeing({one: AUXILIARIES[one] for one in ("has", "does")})
        if right in ("has", "have"):  # the guests have visited the tower
            done = self.pick(_words("admired avoided followed greeted visited"))
            return [*subject, right, done, *self.any(NOUNS + THINGS)], [(at, wrong)]
        verb = self.pick(list(VERBS.values()))  # do the guests near the tower admire the king
        return [right, *subject, verb, *self.any()], [(0, wrong)]

    def broken(self, words: Words, places: list[tuple[int, str]]) -> Words:
        """The words with one error: of agreement, or two neighbours that have changed places."""
        if self.draw.random() < 0.75:
            at, wrong = self.pick(places)
            return [*words[:at], wrong, *words[at + 1 :]]
        determiners = {*SINGULAR, *PLURAL}
        firsts = [i for i, word in enumerate(words[:-1]) if word in determiners]
        at = self.pick(firsts)  # "the king" -> "king the", never acceptable
        return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def sentences(count: int = COUNT, seed: int = SEED) -> list[tuple[str, int]]:
    """(sentence, 1 if acceptable else 0) of `count` different ones, about half of each kind."""
    made, found = _Draw(seed), {}
    while len(found) < count:
        words, places = made.sentence()
        acceptable = made.draw.random() < 0.5
        if not acceptable:
            words = made.broken(words, places)
        end = "?" if {words[0], words[1]} & {"does", "do"} else "."
        text = " ".join(words) + end
        found.setdefault(text[0].upper() + text[1:], int(acceptable))
    return list(found.items())
