"""Losses of tokens, and distillation, are the same in parts as of all logits at once."""

import pytest
import torch
from conftest import CONFIGS, V, pico, sentences, word_tokenizer
from every_type import tiny
from torch.nn.functional import cross_entropy, kl_div
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tlmtool.measuring import logits
from tlmtool.measuring.logits import within
from tlmtool.training.distilling import Distilled, relative
from tlmtool.training.imitation import Imitation
from tlmtool.training.objectives import Language, Objective

CAPPED = ("gemma2", "cohere", "granite", "gpt_neox")  # capped, scaled, divided; not tied
FOUND = [*CONFIGS, *CAPPED]
WHOLE = ("prophetnet", "llama4")  # their heads read something else: all logits are computed
B, N, FEW = 3, 9, 5  # texts, tokens of each, and tokens whose logits are held at once


def model_of(kind: str) -> torch.nn.Module:
    made = pico(kind, "lm") if kind in CONFIGS else tiny(kind, "AutoModelForCausalLM")
    return made.eval()


def inputs_for(model) -> dict:
    ids = torch.randint(3, 70, (B, N), generator=torch.Generator().manual_seed(0))
    more = {"decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | more


def gradients(model, loss) -> dict[str, torch.Tensor]:
    """The gradients of a loss, which it takes from the model."""
    loss.backward()
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def same(found: dict, expected: dict, rel: float = 2e-6) -> None:
    """Some gradients are zero but for rounding, which that of others shows."""
    assert found.keys() == expected.keys()
    noise = 1e-7 * max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max() <= rel * grad.abs().max() + noise, name


@pytest.fixture
def few(monkeypatch):
    """Little room for logits; gives how many tokens each call of a head was given."""
    kept, seen = logits.Body.logits, []

    def noting(self, hidden):
        self.most = FEW
        seen.append(len(hidden))
        return kept(self, hidden)

    monkeypatch.setattr(logits.Body, "logits", noting)
    monkeypatch.setattr(logits, "LEARNED", FEW * V)
    return seen


@pytest.mark.parametrize("kind", [*FOUND, *WHOLE])
def test_the_loss_and_all_gradients_are_those_of_all_logits_at_once(kind, few):
    model = model_of(kind)
    inputs, places = inputs_for(model), torch.rand(B, N) < 0.8
    targets = torch.randint(0, 70, (int(places.sum()),))
    found = []

    def work(body):
        found.append(body.reads is not None)
        return body.loss(places, lambda x, some: cross_entropy(x, targets[some], reduction="sum"))

    loss = within(model, model, inputs, work)
    assert found == [kind in FOUND] and max(few) <= FEW + 2 and "forward" not in vars(model)
    parts = gradients(model, loss)
    whole = cross_entropy(logits.logits_in(model(**inputs))[places], targets, reduction="sum")
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=1e-6)
    same(parts, gradients(model, whole))


def test_a_head_that_is_not_trained_gets_no_gradient(few):
    model = model_of("gpt_neox")
    model.lm_head.requires_grad_(False)
    inputs, read = inputs_for(model), []

    def work(body):
        read.extend(body.read)
        return body.loss(torch.ones(B, N).bool(), lambda x, some: x.square().sum())

    parts = gradients(model, within(model, model, inputs, work))
    same(parts, gradients(model, model(**inputs)["logits"].square().sum()))
    assert not read and "lm_head.weight" not in parts


def test_mixed_precision_loses_no_gradient(few):
    """The copies in bfloat16 that autocast keeps of weights must have a way back to them."""
    model = model_of("llama")
    inputs, targets = inputs_for(model), torch.randint(0, 70, (B * N,))
    work = lambda body: body.loss(  # noqa: E731
        torch.ones(B, N).bool(), lambda x, some: cross_entropy(x, targets[some], reduction="sum")
    )
    with torch.autocast("cpu", torch.bfloat16):
        parts = gradients(model, within(model, model, inputs, work))
        whole = cross_entropy(model(**inputs)["logits"].float().flatten(0, 1), targets)
        same(parts, gradients(model, whole * B * N), rel=0.05)


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that is made within it."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        self.most = max(self.most, *sizes, 0)
        return made


def objective(model, teacher=None):
    """A language-model objective on texts of equal lengths, or a distillation; and its batch."""
    tokenizer, texts = word_tokenizer(), [text for text in sentences(40) if len(text) > 20][:8]
    if teacher is None:
        found = Language(model, tokenizer, texts, texts, 32, 0)
    else:
        plain = Objective(model, tokenizer, texts, None, 32)
        found = Distilled(model, teacher, plain, None, 2.0, False)
    return found, found.part(list(range(len(texts))), 0)


@pytest.mark.parametrize("taught", [False, True], ids=["labels", "teacher"])
def test_no_tensor_of_a_step_is_as_large_as_all_logits(taught, few):
    model = pico("llama", "lm")
    made, part = objective(model, pico("llama", "lm", seed=1) if taught else None)
    ids = (part if taught else part[0]).inputs["input_ids"]
    with Largest() as seen:
        made.loss(model, model, part).backward()
    assert 0 < seen.most < ids.numel() * V / 2
    with Largest() as seen:
        model(ids)
    assert seen.most == ids.numel() * V  # it sees them where they are


@pytest.mark.parametrize("rows", [V, V + 6])
@pytest.mark.parametrize("family", ["llama", "bert", "t5", "bart"])
def test_distillation_is_that_of_all_logits_at_once(family, rows, few):
    """Hidden states of all layers, and the divergence of each text's mean token."""
    model, teacher = pico(family, "lm").eval(), pico(family, "lm", seed=1)
    teacher.resize_token_embeddings(rows)
    made, part = objective(model, teacher)
    loss = made.loss(model, model, part)
    parts = gradients(model, loss)
    assert made.heads(model) and max(few) <= FEW + 2
    inputs, theirs = made._inputs(model, part)
    found, true, mask = model(**inputs), teacher(**theirs), inputs["attention_mask"].float()
    name = "decoder_hidden_states" if made.shifts else "hidden_states"
    states = [*zip(found[name], true[name], strict=True)][1:]
    whole = sum(relative(a, b.detach(), mask[..., None]) for a, b in states) / len(states)
    one, two = (each["logits"][..., :V] / 2 for each in (found, true))
    pair = one.log_softmax(-1), two.detach().softmax(-1)
    each = 4 * kl_div(*pair, reduction="none").sum(-1)
    whole = whole + ((each * mask).sum(1) / mask.sum(1)).sum()
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    same(parts, gradients(model, whole), rel=1e-5)


@pytest.mark.parametrize("rows", [V, V + 6])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, 0.3), (0.0, 2.0)])
@pytest.mark.parametrize("family", ["llama", "gpt2", *WHOLE])
def test_imitation_is_that_of_all_logits_at_once(family, weights, rows, few):
    """The divergence of every token of a window, and the hidden states of all layers."""
    model, teacher = model_of(family), model_of(family)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    if rows > V and family not in WHOLE:
        teacher.resize_token_embeddings(rows)
    windows = torch.randint(3, 70, (6, N), generator=torch.Generator().manual_seed(0)).tolist()
    made = Imitation(model, teacher, windows, weights=weights)
    part = made.part([1, 3, 4], 0)
    assert part.tolist() == [windows[k] for k in (1, 3, 4)] and made.count(part) == 3 * N
    loss = made.loss(model, model, part)
    parts = gradients(model, loss)
    assert not few or max(few) <= FEW + 2
    found, true = (m(part, output_hidden_states=True, use_cache=False) for m in (model, teacher))
    pair = (each["logits"] for each in (found, true))
    one, two = (each[..., : model.config.vocab_size].log_softmax(-1) for each in pair)
    whole = 0.0
    if weights[0]:
        whole = weights[0] * kl_div(one, two.detach(), reduction="sum", log_target=True)
    if weights[1]:
        states = [*zip(found["hidden_states"], true["hidden_states"], strict=True)][1:]
        ones = torch.ones(3, N, 1)
        error = sum(relative(a, b.detach(), ones) for a, b in states) / len(states)
        whole = whole + weights[1] * N * error
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=1e-5)
    same(parts, gradients(model, whole), rel=1e-5)
