"""Evaluation of agent language models: tasks, environments and the report.

This package talks to a model over HTTP. It refuses to know torch, the engine and the other wheels, so that an
evaluator who has only a URL needs nothing else.
"""

__version__ = "0.1.0"
