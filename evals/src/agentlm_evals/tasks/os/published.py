"""Where the operating system task's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

FILE = "AgentBench.old/src/tasks/os_interaction/task.py"
FILES = {FILE: "c63e00d43c0d0e6ae8adc51f27178ae5ee780b56c3070cd607ae4abd3ebb7d87"}
PUBLISHED = {
    "instruction": Extract(FILE, "OSInteraction._judge", 3),
    "problem": Extract(FILE, "OSInteraction._judge", 7),
    "next": Extract(FILE, "OSInteraction._judge", 12),
    "shot": Extract(FILE, "ONE_SHOT"),
}
