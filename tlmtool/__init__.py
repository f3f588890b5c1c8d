"""tlm: pretrained transformers as tensors, smaller or larger, trained and measured."""
