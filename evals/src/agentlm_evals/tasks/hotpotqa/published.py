"""Where HotpotQA's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

_FOLDER = "eval_heldout/hotpotQA/src"
_AGENT, _PROMPT, _SHOTS = f"{_FOLDER}/agent_arch.py", f"{_FOLDER}/pre_prompt.py", f"{_FOLDER}/fewshots.py"

FILES = {
    _AGENT: "12bf234ca056c5e1f1cbaf88f22e4491bdbbb67642826adbea544bbade08c991",
    _PROMPT: "207af79910d66d10dfefc34bb75629e5cb5b54468aefbe599c88036b456f7141",
    _SHOTS: "579a805ef628546cdec407356c2d8d7302322a601972dea9bfb362ce1ea45547",
}
SOURCES = {
    "instruction": Extract(_PROMPT, "REACT_INSTRUCTION"),
    "examples": Extract(_SHOTS, "REACT_EXAMPLE"),
    "thought": Extract(_AGENT, "BaseAgent._think", 0),
    "action": Extract(_AGENT, "BaseAgent._action", 0),
    "observation": Extract(_AGENT, "BaseAgent.step", 0),
    "nothing open": Extract(_AGENT, "BaseAgent.step", 7),
    "invalid": Extract(_AGENT, "BaseAgent.step", 8),
}
