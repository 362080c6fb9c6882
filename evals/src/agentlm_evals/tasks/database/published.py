"""Where DBBench's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

FILE = "AgentBench.old/src/tasks/dbbench/__init__.py"
FILES = {FILE: "891b904ea9f1883e5eae5a0e62e47d4ebeb2ca36e304721f853d3395bd9c8d83"}
PUBLISHED = {
    "instruction": Extract(FILE, "big_prompt"),
    "ready": Extract(FILE, "process", 8),
}
