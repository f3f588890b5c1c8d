"""Training: fine-tuning, over-parameterizing by MPO, distillation, and studies of these."""
