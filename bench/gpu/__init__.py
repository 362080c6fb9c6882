"""Benchmarks and checks on a machine with one NVIDIA GPU, in parts that each end within a set time.

`python -m bench.gpu` is the command, and `python -m bench.gpu.suite` the fuller one. Both need no network and no other
engine; what they find is one JSON file.
"""
