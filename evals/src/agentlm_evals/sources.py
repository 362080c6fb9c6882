"""Where tasks' official items come from: addresses, checksums where we know them, licences. Refuses to fetch."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """One file of an official source."""

    url: str
    path: str
    """Where it is kept, below the data directory; a mirror has it at the same place, or by its last name alone."""
    sha256: str | None = None
    """Pinned; None: recorded when it is first fetched, and held to that from then on."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """What one name of `data fetch` brings."""

    files: tuple[File, ...]
    licence: str
    about: str


_RAW = "https://raw.githubusercontent.com"
_TUNING = f"{_RAW}/THUDM/AgentTuning/e33a45d"
_BENCH = f"{_RAW}/THUDM/AgentBench/578c5e9/data"
_FASTCHAT = f"{_RAW}/lm-sys/FastChat/v0.2.31/fastchat/llm_judge/data"

DATA_SETS: Mapping[str, DataSet] = {
    "gsm8k": DataSet(
        (
            File(
                f"{_RAW}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",
                "gsm8k/test.jsonl",
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            ),
        ),
        "MIT",
        "1,319 problems (openai/grade-school-math)",
    ),
    "mmlu": DataSet(
        (File("https://people.eecs.berkeley.edu/~hendrycks/data.tar", "mmlu/data.tar"),),
        "MIT",
        "14,042 questions in 57 subjects (hendrycks/test); unpacked into mmlu/data",
    ),
    "humaneval": DataSet(
        (
            File(
                f"{_RAW}/openai/human-eval/master/data/HumanEval.jsonl.gz",
                "humaneval/HumanEval.jsonl.gz",
                "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
            ),
        ),
        "MIT",
        "164 problems (openai/human-eval)",
    ),
    "mt-bench": DataSet(
        (
            File(
                f"{_FASTCHAT}/mt_bench/question.jsonl",
                "mt_bench/mt_bench_question.jsonl",
                "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            ),
            File(
                f"{_FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
                "mt_bench/mt_bench_reference_answer_gpt-4.jsonl",
                "f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            ),
            File(
                f"{_FASTCHAT}/judge_prompts.jsonl",
                "mt_bench/judge_prompts.jsonl",
                "fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            ),
        ),
        "Apache-2.0",
        "80 questions, 30 reference answers, the judge's prompts (lm-sys/FastChat)",
    ),
    "database": DataSet(
        (
            File(f"{_BENCH}/dbbench/standard.jsonl", "dbbench/standard.jsonl"),
            File(
                f"{_BENCH}/dbbench/dev.jsonl",
                "dbbench/dev.jsonl",
                "eb941c58a7a5651357b19e46aa05070f6cd5a7d83ce70cefd24aa3581e1e1130",
            ),
        ),
        "Apache-2.0 (THUDM/AgentBench); WikiSQL, WikiTableQuestions and others keep their own",
        "300 and 60 items, as AgentBench corrected them",
    ),
    "agenttuning": DataSet(
        (),
        "none stated by THUDM/AgentTuning: for your own use only",
        "the texts of the published protocol, at commit e33a45d; read, never executed",
    ),
}
"""By the task's name. `agenttuning` takes its files from the tasks' own lists."""


def protocol_files() -> tuple[File, ...]:
    """Every file that a built task's `agenttuning` protocol is read from, with its pinned checksum."""
    from agentlm_evals.tasks import ENTRIES

    pins: dict[str, str] = {}
    for entry in ENTRIES:
        if entry.is_built:
            pins.update(entry.load().source_files)
    return tuple(
        File(f"{_TUNING}/{path}", f"agenttuning/{path}", digest) for path, digest in sorted(pins.items())
    )
