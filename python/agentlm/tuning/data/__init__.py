"""Files of conversations before they are trained on: read from anybody's format, filtered, audited and counted.

Nothing heavy is imported here; a part is imported by its own name.
"""
