"""What people type: other words for a command or a flag work, or name the one that tlm has."""

from tlmtool.recipe.verbs import BESIDE, VERBS

LISTS = (
    "tlm --help lists the commands, tlm compress --help the methods, tlm evaluate --help the "
    "tasks; models with a name are minilm, smollm2 and gemma3-270m"
)
# {what people type for a command: what to type}
COMMANDS = {
    "eval": "tlm evaluate",
    "test": "tlm evaluate",
    "score": "tlm evaluate",
    "benchmark": "tlm profile",
    "bench": "tlm profile",
    "measure": "tlm profile",
    "shrink": "tlm compress",
    "reduce": "tlm compress",
    "prune": "tlm compress",
    "factorize": "tlm compress",
    "decompose": "tlm compress",
    "convert": "tlm compress MODEL --attention NAME, or tlm merge for a plain checkpoint",
    "train": "tlm finetune",
    "fine-tune": "tlm finetune",
    "distill": "tlm finetune MODEL --teacher MODEL",
    "recover": "tlm compress MODEL --keep SHARE --recover STEPS",
    "quantise": "tlm quantize",
    "dequantize": "tlm merge",
    "unmerge": "tlm compress",
    **dict.fromkeys(("onnx", "deploy", "serve"), "tlm export MODEL --to onnx"),
    **dict.fromkeys(("upload", "publish"), "tlm push"),
    "lora": "tlm repair",
    "chat": "tlm generate",
    "sample": "tlm generate",
    "samples": "tlm generate",
    "inspect": "tlm info",
    "show": "tlm info",
    "describe": "tlm info",
    "stats": "tlm info",
    "check": "tlm doctor",
    "env": "tlm doctor",
    "diagnose": "tlm doctor",
    **dict.fromkeys(("list", "ls", "models", "methods", "tasks", "commands"), LISTS),
}
# {what people type for a flag: (the flag that tlm has, what to know about it)}
_KEEP = ("--keep", "the share that stays, so --keep 0.6 removes 40 %")
_BITS = ("--bits", "8 or 4")
_OUT, _LR = ("--out", "a folder"), ("--lr", "a rate")
FLAGS = {
    **dict.fromkeys(
        ("--ratio", "--compression-ratio", "--compression", "--share", "--sparsity"), _KEEP
    ),
    **dict.fromkeys(
        ("--quantize", "--quantization", "--int8", "--int4", "--load-in-8bit", "--load-in-4bit"),
        _BITS,
    ),
    **dict.fromkeys(("--output", "--output-dir", "--save", "--save-dir", "-o"), _OUT),
    **dict.fromkeys(("--learning-rate", "--learning_rate"), _LR),
    **dict.fromkeys(("--decomposition", "--form", "--algorithm", "-m"), ("--method", "svd, ...")),
    **dict.fromkeys(
        ("--layers", "--modules", "--target-modules", "--targets", "--include"),
        ("--sites", "names such as ffn, or a glob"),
    ),
    **dict.fromkeys(("--gpu", "--cuda", "--use-cuda", "--cpu"), ("--device", "cuda or cpu")),
    **dict.fromkeys(("--fp16", "--bf16", "--half", "--torch-dtype"), ("--dtype", "bfloat16, ...")),
    **dict.fromkeys(("--force", "-f", "--yes", "-y"), ("--overwrite", "replaces --out")),
    **dict.fromkeys(("--config", "-c", "--yaml"), ("--recipe", "a YAML file")),
    **dict.fromkeys(("--dataset", "--corpus", "--train-data"), ("--data", "a file or a data set")),
    **dict.fromkeys(("--batch-size", "--bs"), ("--batch", "texts at once")),
    **dict.fromkeys(("--max-new-tokens", "--max-tokens", "--length"), ("--tokens", "a number")),
    **dict.fromkeys(("--debug", "--log-level"), ("--verbose", "everything")),
}


def meant(args: list[str]) -> list[str]:
    """The arguments as tlm has them: `help X` is `X --help`, `version` is `--version`, and in a
    command `--model X` is X."""
    if args[:1] == ["help"]:
        return [*args[1:2], "--help"]
    if args[:1] == ["version"]:
        return ["--version"]
    if not args or args[0] not in (*VERBS, *BESIDE):
        return args
    kept = (word.removeprefix("--model=") for word in args if word != "--model")
    return [*kept]


def command_meant(word: str) -> str:
    """What to type instead of an unknown command; empty where nothing is known of the word."""
    found = COMMANDS.get(word.lower(), "")
    return found if found in ("", LISTS) else f"use {found}"


def flag_meant(word: str, known: list[str], path: str) -> str:
    """What to give instead of an unknown flag, of those that are `known`; empty where nothing is
    known of the word. `path`: the command."""
    if (word := word.partition("=")[0]) not in FLAGS:
        return ""
    flag, words = FLAGS[word]
    return f"use {flag} ({words})" if flag in known else f"see {path} --help"
