#!/usr/bin/env bash
# Everything that a GPU is needed for, in under eight minutes: what works there, and how fast.
#
# benchmarks/gpu.sh --out gpu.json                      # one CUDA device
# benchmarks/gpu.sh --device cpu --quick --out try.json # tries each part without one, on pico models
#
# PYTHON names the interpreter (default: python). Needs no network. Parts and limits: gpu_parts.py.
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "$0")/gpu.py" "$@"
