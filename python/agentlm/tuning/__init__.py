"""Tuning: from conversations in a file to a checkpoint that the server loads as it lies.

Nothing heavy is imported here; a part is imported by its own name.
"""
