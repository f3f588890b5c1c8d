"""Reports that are made up, and how one is printed."""

import io

from rich.console import Console

from tlmtool.report.report import Report

TIMES = ("min", "max", "cpu")
ROLES = ("query", "key", "value", "output")
SIZES = {"before": 884_736, "after": 283_104}
LOSS = {"name": "loss", "what": "mean NLL", "before": 3.0, "after": 3.31, "texts": 60}


def site(layer: int, role: str) -> dict:
    return {
        "site": f"encoder.layer.{layer}.attention.self.{role}",
        "role": role,
        "shape": [384, 384],
        "decomposition": {"name": "btd", "rank": 8, "blocks": 12},
        "parameters": 47_184,
        "keep": 0.32,
        "weight_error": 0.4 + layer / 100,
        "output_error": 0.2 + layer / 100,
        "svd_weight_error": 0.5,
        "svd_output_error": 0.4,
    }


def compressed(layers: int = 6, **more: object) -> Report:
    data = {
        "verb": "compress",
        "model": {
            "id": "minilm",
            "type": "bert",
            "class": "BertModel",
            "license": "apache-2.0",
            "out": "out/m8",
            "sha256": {"model.safetensors": "ab" * 32},
        },
        "parameters": {
            "before": 22_713_216,
            "after": 20_306_304,
            "sites_before": 3_538_944,
            "sites_after": 1_132_416,
            "keep": 0.32,
            "by_role": {role: {"sites": layers, **SIZES} for role in ROLES},
        },
        "flops": {
            "note": "forward, 1 x 128 tokens",
            "before": 2_870_000_000,
            "after": 2_260_000_000,
        },
        "weight_bytes": {"before": 90_900_000, "after": 81_300_000},
        "file_bytes": {"before": 90_900_000, "after": 81_300_000},
        "quality": {
            "what": "relative error of the last hidden state on 60 held-out texts",
            "name": "feature_error",
            "before": 0.0,
            "after": 0.2134,
            "texts": 60,
        },
        "calibration": {"source": "the shipped text", "texts": 240, "tokens": 5120},
        "sites": [site(layer, role) for layer in range(layers) for role in ROLES],
        "left_dense": [],
        "warnings": ["rank 1 keeps 4.0 % of encoder.layer.0.attention.self.query"],
        "seconds": {"measure": 3.2, "fit": 1.1, "save": 6.04},
        "seed": 0,
        "versions": {},
        "recipe": {"verb": "compress", "model": "minilm", "compression": {"rank": 8}},
    }
    return Report.read(data | more)


def profiled() -> Report:
    def model(name: str, part: int) -> dict:
        return {
            "id": name,
            "parameters": 20_000_000 // part,
            "by_role": {"query": 1_000_000 // part, "other": 19_000_000 // part},
            "weight_bytes": 80_000_000 // part,
            "runs": [
                {
                    "seq_len": n,
                    "batch": 1,
                    "flops": n * 10_000_000 // part,
                    "by_part": {"query": n * 10**6 // part, "attention scores": n * 10**7 // part},
                    "latency_ms": {"median": 12.34 / part, **dict.fromkeys(TIMES, 1), "runs": 7},
                    "peak_memory_bytes": None,
                }
                for n in (128, 512)
            ],
        }

    data = {"verb": "profile", "models": [model("minilm", 1), model("out/m8", 2)]}
    return Report.read(data)


def evaluated() -> Report:
    model = {"id": "out/m8", "score": 0.8441, "n": 1500}
    baseline = {"id": "minilm", "score": 0.8671, "n": 1500, "difference": -0.023}
    baseline |= {"interval": [-0.0301, -0.0159], "level": 0.95, "resamples": 2000}
    baseline |= {"method": "2,000 paired resamples"}
    data = {"task": "similarity", "metric": "spearman", "better": "higher", "what": "Spearman of x"}
    data |= {"verb": "evaluate", "max_length": 128}
    return Report.read(data | {"models": [model], "baseline": baseline})


def printed(report: Report, **more: object) -> str:
    stream = io.StringIO()
    report.table(Console(file=stream, width=100, color_system=None), **more)
    return stream.getvalue()
