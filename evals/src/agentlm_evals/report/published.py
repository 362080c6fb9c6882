"""The paper's table: published columns and the constants of its Overall. Refuses to know our own runs.

Source: AgentTuning (arXiv 2310.12823), the project page's main table. A constant is the mean of the five baselines
GPT-3.5, GPT-4 and Llama-2-chat 7B, 13B, 70B; with it all 24 published Overall numbers come out to two decimals.
"""

import math
from collections.abc import Mapping

from agentlm_evals.report.statistics import Estimate, Z
from agentlm_evals.task import Group

COLUMNS = (
    "GPT-3.5",
    "GPT-4",
    "Llama-2-7B",
    "Llama-2-13B",
    "Llama-2-70B",
    "AgentLM-7B",
    "AgentLM-13B",
    "AgentLM-70B",
)
"""The published models."""
BASELINES = 5
"""The first so many of them make the constants."""

SCORES: dict[str, tuple[float, ...]] = {
    "alfworld": (14.0, 78.0, 2.0, 2.0, 6.0, 84.0, 76.0, 86.0),
    "webshop": (67.2, 58.6, 4.4, 7.2, 1.5, 63.6, 70.8, 64.9),
    "mind2web": (15.7, 22.6, 3.7, 2.3, 0.2, 6.4, 8.4, 13.5),
    "knowledge-graph": (27.2, 52.1, 0.0, 0.0, 0.0, 18.1, 26.8, 47.0),
    "os": (32.6, 36.8, 8.3, 9.0, 9.0, 17.4, 18.1, 21.5),
    "database": (15.0, 33.7, 0.3, 1.3, 9.3, 30.6, 33.7, 37.7),
    "science-world": (21.2, 36.4, 5.9, 6.4, 7.9, 13.7, 18.0, 20.8),
    "miniwob": (66.7, 69.4, 0.0, 19.6, 0.7, 28.9, 31.1, 60.7),
    "webarena": (4.56, 6.28, 1.23, 1.11, 0.62, 0.74, 1.60, 3.81),
    "hotpotqa": (37.4, 52.1, 22.6, 25.2, 37.5, 22.3, 29.6, 41.6),
    "rewoo": (71.0, 79.7, 48.3, 48.7, 55.1, 50.9, 55.7, 66.0),
    "card-game": (24.5, 50.0, 0.0, 0.0, 5.0, 7.0, 2.5, 23.5),
    "mmlu": (70.0, 86.4, 48.0, 54.3, 62.1, 48.7, 53.6, 59.5),
    "humaneval": (48.1, 67.0, 13.9, 18.4, 30.8, 15.4, 14.8, 28.7),
    "gsm8k": (57.1, 87.1, 27.7, 37.5, 54.7, 24.6, 32.4, 59.7),
    "mt-bench": (7.94, 8.99, 6.26, 6.65, 6.85, 6.11, 6.57, 7.26),
}
"""By task; percent, MT-Bench's rating from 1 to 10."""

OVERALL: dict[Group, tuple[float, ...]] = {
    Group.HELD_IN: (1.59, 2.75, 0.19, 0.20, 0.27, 1.96, 2.11, 2.55),
    Group.HELD_OUT: (1.49, 2.13, 0.38, 0.49, 0.51, 0.67, 0.78, 1.40),
    Group.GENERAL: (1.15, 1.53, 0.63, 0.74, 0.95, 0.62, 0.69, 0.96),
}
"""As printed."""

GROUP_TASKS: dict[Group, tuple[str, ...]] = {
    Group.HELD_IN: ("alfworld", "webshop", "mind2web", "knowledge-graph", "os", "database"),
    Group.HELD_OUT: ("science-world", "miniwob", "webarena", "hotpotqa", "rewoo", "card-game"),
    Group.GENERAL: ("mmlu", "humaneval", "gsm8k", "mt-bench"),
}
"""The rows of each table."""

MEANS = {task: sum(row[:BASELINES]) / BASELINES for task, row in SCORES.items()}
"""What a task's score is divided by."""


def overall(scores: Mapping[str, Estimate], group: Group) -> Estimate | None:
    """The paper's Overall: the mean over the group's tasks of score / constant; None unless every task is there.

    The interval takes the tasks' errors to be independent and normal.
    """
    tasks = GROUP_TASKS[group]
    if any(task not in scores or math.isnan(scores[task].value) for task in tasks):
        return None
    value = sum(scores[task].value / MEANS[task] for task in tasks) / len(tasks)
    variance = sum(((scores[task].high - scores[task].low) / (2 * Z) / MEANS[task]) ** 2 for task in tasks)
    half = Z * math.sqrt(variance) / len(tasks)
    return Estimate(value, max(value - half, 0.0), value + half, sum(scores[task].count for task in tasks))
