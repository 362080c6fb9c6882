"""Checkpoints and the decoder: config.json to logits."""
