"""The command line's start, as the script `agentlm` and as `python -m agentlm`. Refuses to know any command."""

import sys

INTERRUPTED = 130
"""What shells say of a process that Ctrl-C ended."""


def main() -> None:
    """Runs the command line; Ctrl-C while it is still being loaded ends it without a traceback."""
    try:
        from agentlm.cli import main as run
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    run()


if __name__ == "__main__":
    main()
