"""Triton kernels: one file a kernel, with its launcher and its torch reference.

This package knows tensors, shapes and devices. It refuses to know requests, schedulers, models and files, and needs
torch and triton only. Importing it compiles nothing.
"""

__version__ = "0.1.0"
