"""Side-by-side benchmarks against other engines, on one machine and the same random models.

Measures and reports; refuses to know how any engine works. `python -m bench` is the command, `results/` the record.
"""
