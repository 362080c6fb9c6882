"""lm-evaluation-harness by its `local-completions`: `harness.py URL MODEL_DIRECTORY TASKS_DIRECTORY`.

Run with the tasks' folder as the working directory: their data files are named relative to it.
"""

import sys

from cases import case, run
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

URL, MODEL, TASKS = sys.argv[1:4]


def evaluated(**more):
    """What both tasks came to, with each sample's answers."""
    model = {
        "model": "tgi",
        "base_url": f"{URL}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": MODEL,
        "add_bos_token": True,
        "max_length": 512,
        "max_retries": 1,
        **more,
    }
    found = simple_evaluate(
        model="local-completions",
        model_args=model,
        tasks=["agentlm_choice", "agentlm_words"],
        task_manager=TaskManager(include_path=TASKS, include_defaults=False),
        bootstrap_iters=0,
    )
    choices = sorted(found["samples"]["agentlm_choice"], key=lambda sample: sample["doc_id"])
    words = sorted(found["samples"]["agentlm_words"], key=lambda sample: sample["doc_id"])
    return {
        "accuracy": found["results"]["agentlm_choice"]["acc,none"],
        "choices": [
            [[float(score), bool(greedy)] for score, greedy in sample["filtered_resps"]] for sample in choices
        ],
        "texts": [sample["resps"][0][0] for sample in words],
    }


@case
def one_after_the_other():
    return evaluated(num_concurrent=1)


@case
def in_batches():
    return evaluated(num_concurrent=1, batch_size=3)


@case
def at_once():
    return evaluated(num_concurrent=4)


run()
