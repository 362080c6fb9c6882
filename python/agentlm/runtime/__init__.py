"""Runners and the engine thread that drives them."""
