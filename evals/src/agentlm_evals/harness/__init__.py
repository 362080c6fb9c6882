"""The harness: episodes, their journal, resuming, budgets and progress, on inspect_ai. Refuses to know any task by name."""
