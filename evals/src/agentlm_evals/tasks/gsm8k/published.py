"""Where GSM8K's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

FILE = "eval_general/eval_gsm8k_tgi.py"
FILES = {FILE: "76e15add25881525a301aa75c792afaacfef06a765cef556e34e3d5a8d241e6d"}
_DIALOGUE = "doc_to_text"

PUBLISHED = {
    "system": Extract(FILE, _DIALOGUE, 1),
    "instruction": Extract(FILE, _DIALOGUE, 2),
    "ready": Extract(FILE, _DIALOGUE, 3),
    "question": Extract(FILE, _DIALOGUE, 4),
    **{f"shot{at}.question": Extract(FILE, f"Q{at + 1}") for at in range(8)},
    **{f"shot{at}.answer": Extract(FILE, f"A{at + 1}") for at in range(8)},
}
