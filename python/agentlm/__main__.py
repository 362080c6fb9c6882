"""`python -m agentlm`: the command line without an installed script."""

from agentlm.cli import main

if __name__ == "__main__":
    main()
