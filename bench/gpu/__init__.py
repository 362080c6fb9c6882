"""Benchmarks and checks on a machine with one NVIDIA GPU, in parts that each end within ten minutes.

`python -m bench.gpu` is the command. It needs no network and no other engine; what it finds is one JSON file.
"""
