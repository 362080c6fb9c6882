"""Where MT-Bench's published texts stand: names and places, never the texts. Refuses to read them."""

from agentlm_evals.protocols.source import Extract

FILE = "eval_general/eval_mt_bench_tgi.py"
FILES = {FILE: "443c449145c8ff0980d05925c30e60c4253e905b72d31d342191d24762f4cc82"}
PUBLISHED = {"system": Extract(FILE, "query_model", 1)}
