"""Weights that are pickles, which are not opened: the command that converts them safely."""

from fnmatch import fnmatch

PICKLES = ("pytorch_model*.bin", "model*.bin", "model*.pt", "*.pth")  # patterns of their names


def is_pickle(name: str) -> bool:
    """Whether a file holds weights as a pickle, by its name."""
    return any(fnmatch(name, pattern) for pattern in PICKLES)


def conversion(names: str) -> str:
    """The command that turns pickles of weights, by a pattern of their names, into a file of
    safetensors beside them. With `weights_only` no code in them is run."""
    return (
        'python -c "import glob, torch, safetensors.torch as s; '
        f"s.save_file({{k: v.contiguous().clone() for f in glob.glob('{names}') for k, v in "
        "torch.load(f, map_location='cpu', weights_only=True).items()}, "
        "'model.safetensors', {'format': 'pt'})\""
    )
