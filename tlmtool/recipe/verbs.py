"""The verbs of `tlm`, one row each, in the order in which a newcomer meets them.

A verb is a row here and a function of that name in `commands/`. Each setting of the schema and each
part of a report names the verbs that have it.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """A command that makes one report. `out`: the folder that it writes by default, in words; empty
    where it writes none. `checkpoint`: whether that folder is one that tlm loads."""

    help: str
    example: str
    out: str = ""
    checkpoint: bool = True


VERBS = {
    "compress": Verb(
        "Make a model smaller: replace its linear layers by products of small factors, its softmax "
        "attention by a tensor kernel, or both.",
        "tlm compress minilm --rank 8 --out out/m8",
        "out/<model>-<budget>",
    ),
    "quantize": Verb(
        "Store the weights of a model in 8 or 4 bits: the files become 2 to 8 times smaller.",
        "tlm quantize minilm --bits 8 --out out/int8",
        "out/<model>-<B>bit",
    ),
    "repair": Verb(
        "Write a LoRA adapter that brings a compressed or quantized model nearer to its original, "
        "without training.",
        "tlm repair out/int4 --against minilm --rank 32 --out out/adapter",
        "out/<model>-adapter",
        checkpoint=False,
    ),
    "evaluate": Verb(
        "Score a model, alone or against a second one.",
        "tlm evaluate out/m8 --task similarity --data pairs.csv --baseline minilm",
    ),
    "generate": Verb(
        "Let a language model continue prompts, alone or side by side with a second one, and time "
        "it; a masked language model fills in masked words.",
        "tlm generate out/k6 --against smollm2 --prompt 'Why is the sky blue?'",
    ),
    "profile": Verb(
        "Measure what a model costs: parameters, FLOPs, bytes, memory and time; or measure "
        "attention kernels alone.",
        "tlm profile minilm --against out/m8 --seq-len 128,512",
    ),
    "merge": Verb(
        "Multiply the factors of a compressed model out again, and turn stored bits into floats: "
        "the result is a plain checkpoint that loads without tlm.",
        "tlm merge out/m8 --out out/m8-dense",
        "out/<model>-dense",
    ),
    "export": Verb(
        "Write a model for other programs: an ONNX or OpenVINO graph that is checked against the "
        "model and timed beside it.",
        "tlm export out/m8 --to onnx --out out/m8-onnx",
        "out/<model>-<NAME>",
        checkpoint=False,
    ),
    "finetune": Verb(
        "Train a model on a task; with options to over-parameterize it meanwhile, to imitate a "
        "teacher, or to compare strategies over several seeds.",
        "tlm finetune minilm --task cola --data cola/ --strategy dynamic --N 6 --n 2",
        "out/<model>-<task>",
    ),
    "overparam": Verb(
        "Make a model larger for training: it computes the same function with more parameters.",
        "tlm overparam minilm --growth 3 --out out/m3",
        "out/<model>-growth<G>",
    ),
}
RUN = Verb(
    "Run what a YAML file says: one command, stages that use what earlier ones wrote, or every "
    "combination of a matrix of values.",
    "tlm run recipes/run-minilm-combined.yaml --out out/combined",
)  # of no stage itself, so it is no row above
COMPARE = Verb(
    "Put results side by side: their sizes and scores, the differences with intervals, pictures, "
    "and one page of it all.",
    "tlm compare out/m8 out/m4 --sort loss --where 'keep<0.8' --out compared.html",
)  # it reads reports and no recipe
INFO = Verb(
    "Tell what a folder, a GGUF file or a known model is: type, sizes, factors, where it comes "
    "from, what was measured, and what can open it.",
    "tlm info out/m8",
)  # it opens no model, and so has no recipe
PUSH = Verb(
    "Upload the folder of a checkpoint to the Hugging Face Hub, as a private model unless told "
    "otherwise.",
    "tlm push out/m8 me/minilm-rank8 --dry-run",
)  # it runs no model
DOCTOR = Verb(
    "Tell what tlm finds on this machine: versions, devices, memory, and which optional packages "
    "are missing.",
    "tlm doctor",
)
# commands without a recipe of their own
BESIDE = {"info": INFO, "compare": COMPARE, "push": PUSH, "run": RUN, "doctor": DOCTOR}
EVERY = " ".join(VERBS)
WRITES = tuple(name for name, verb in VERBS.items() if verb.out)  # those that write a folder
CHECKPOINTS = tuple(name for name in WRITES if VERBS[name].checkpoint)

FORMER_FLAGS = {"finetune": {"--form": "--method"}}  # of tlm 0.2; both names are accepted
