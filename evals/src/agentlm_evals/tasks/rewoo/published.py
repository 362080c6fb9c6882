"""Where ReWOO's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

_FOLDER = "eval_heldout/rewoo"
_PLANNER, _SOLVER, _SHOTS = (f"{_FOLDER}/prompts/{name}.py" for name in ("planner", "solver", "fewshots"))
_WORKER, _TOOLS, _LOOP = (
    f"{_FOLDER}/nodes/Worker.py",
    f"{_FOLDER}/nodes/Planner.py",
    f"{_FOLDER}/algos/PWS.py",
)

FILES = {
    _PLANNER: "ed7845a7628250c22824e56f6a3e10a34c47e4ddbd6b643926f1e72783d68f50",
    _SOLVER: "2042d8a23a7a1b0e02d2892eeb7d1067d54ed47f47babf50b2cd594d951ed007",
    _SHOTS: "fe925f6367e9cc75365efe10b074e988ac3ed7f01c0d97eaf6962926820b5d7f",
    _WORKER: "38c0fa21e6ab9a6ac036ac242ed5c303b27db1a03542fbcbb66235b8cb707e06",
    _TOOLS: "df077105b339a4014cc428737a5a7501be22ab95d3305275d455e29a2a4bb961",
    _LOOP: "1eb4093c80bdc37d5f4c49c0c96ff3a90bb73a46fc468b6c04b8f87ae67ef7f1",
}
PUBLISHED = {
    "system": Extract(_WORKER, "LLMWorker.run", 11),
    "planner.prefix": Extract(_PLANNER, "DEFAULT_PREFIX"),
    "planner.suffix": Extract(_PLANNER, "DEFAULT_SUFFIX"),
    "solver.prefix": Extract(_SOLVER, "DEFAULT_PREFIX"),
    "solver.suffix": Extract(_SOLVER, "DEFAULT_SUFFIX"),
    "tools": Extract(_TOOLS, "Planner._generate_worker_prompt", 0),
    "tool": Extract(_TOOLS, "Planner._generate_worker_prompt", 1),
    "evidence": Extract(_LOOP, "PWS.run", 5),
    "none": Extract(_LOOP, "PWS._get_worker_evidences", 14),
    "llm": Extract(_WORKER, "LLMWorker.run", 12),
    "shots.hotpot_qa": Extract(_SHOTS, "HOTPOTQA_PWS_BASE"),
    "shots.trivia_qa": Extract(_SHOTS, "TRIVIAQA_PWS"),
    "shots": Extract(_SHOTS, "GSM8K_PWS"),
    "Google": Extract(_WORKER, "GoogleWorker.__init__", 1),
    "Wikipedia": Extract(_WORKER, "WikipediaWorker.__init__", 1),
    "WolframAlpha": Extract(_WORKER, "WolframAlphaWorker.__init__", 1),
    "Calculator": Extract(_WORKER, "CalculatorWorker.__init__", 1),
    "LLM": Extract(_WORKER, "LLMWorker.__init__", 2),
    "SearchSOTU": Extract(_WORKER, "SearchDocWorker.__init__", 1),
    "SearchSOTU.document": Extract(_WORKER, "SearchSOTUWorker.__init__", 1),
}
