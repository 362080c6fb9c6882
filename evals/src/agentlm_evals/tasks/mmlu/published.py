"""Where MMLU's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

FILE = "eval_general/eval_mmlu_hf.py"
FILES = {FILE: "eab665405e09c56d18599f6e6afb4cee74f339642c6585a395a39f5bef2faf16"}

PUBLISHED = {
    "system": Extract(FILE, "generate_few_shot_prompt", 3),
    "question": Extract(FILE, "generate_few_shot_prompt", 6),
    "choice": Extract(FILE, "generate_few_shot_prompt", 8),
    "answer": Extract(FILE, "generate_few_shot_prompt", 13),
    "opening": Extract(FILE, "eval_subject", 5),
}
