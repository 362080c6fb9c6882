"""Benchmarks and checks on a machine with one NVIDIA GPU, in parts that each end within a set time.

`python -m bench.gpu` is the command. It needs no network and no other engine; what it finds is one JSON file and a short summary.
"""
