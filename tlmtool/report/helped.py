"""The figures that the help of each verb names for `--fail-if`, ready to be shown.

`tlmtool.report.checks.helped` finds them, which takes as long as the rest of the help. A test holds
the two together; a verb without a row here is looked up there.
"""

HELPED = {
    "compress": "loss, feature_error, perplexity, parameters.keep, parameters.after, flops.after, "
    "file_bytes.after, recovery.recovered, peak_memory_bytes",
    "quantize": "loss, feature_error, perplexity, parameters.after, flops.after, file_bytes.after, "
    "peak_memory_bytes, peak_rss_bytes",
    "evaluate": "score, nll, loss, perplexity, tokens, blocks, n, models.0.score, "
    "baseline.difference",
    "generate": "generations.0.tokens_per_second, peak_rss_bytes",
    "profile": "models.0.parameters, models.0.runs.0.flops, models.0.runs.0.latency_ms.median, "
    "peak_rss_bytes",
    "merge": "parameters.after, flops.after, file_bytes.after, parity.relative, "
    "peak_memory_bytes, peak_rss_bytes",
    "finetune": "score, parameters.after, file_bytes.after, training.last_loss, "
    "peak_memory_bytes, peak_rss_bytes",
    "overparam": "parameters.growth, parameters.after, flops.after, file_bytes.after, "
    "parity.relative, step.step_flops.after, peak_memory_bytes, peak_rss_bytes",
}
