"""MT-Bench: 80 questions of two turns, each answer rated by a judge from 1 to 10. The number is the mean rating.

The judge is any model behind an OpenAI-compatible API (`--judge-url`). The published ratings are GPT-4's: a row by another
judge says that it is not comparable. A judgement without a rating is a fault of the judge's, counted and never averaged.
Refuses to know servers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from agentlm_evals.errors import DataError, RequirementError
from agentlm_evals.harness.episode import Episode, judged
from agentlm_evals.model import Decoding, Prompt
from agentlm_evals.outcome import Outcome, Score, harness_fault, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.task import (
    Agent,
    Group,
    Metric,
    Sample,
    Setting,
    Task,
    Unit,
    own_samples,
    read_lines,
    scripted,
)
from agentlm_evals.tasks.mt_bench import judging
from agentlm_evals.tasks.mt_bench.published import FILES, PUBLISHED

TURNS = 2
TEMPERATURES = MappingProxyType(
    {
        "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
        "humanities": 0.1,
    }
)  # fmt: skip
"""By category, as FastChat has them; another category's is 0.7."""
GOOD = 7.0
"""A mean rating from which an answer counts as right; it names the outcome and decides nothing else."""
QUESTIONS = (
    "mt_bench/mt_bench_question.jsonl",
    "mt_bench/question.jsonl",
    "mt_bench_question.jsonl",
    "question.jsonl",
)
REFERENCES = (
    "mt_bench/mt_bench_reference_answer_gpt-4.jsonl",
    "mt_bench/reference_answer/gpt-4.jsonl",
    "mt_bench_reference_answer_gpt-4.jsonl",
)
JUDGE_PROMPTS = ("mt_bench/judge_prompts.jsonl", "judge_prompts.jsonl")


class MTBench(Task):
    """Mean rating over both turns of all questions."""

    name, title, group = "mt-bench", "MT-Bench", Group.GENERAL
    metric = Metric("rating", Unit.RATING, is_share=False)
    published_mean = 7.338
    needs_judge = True
    protocols = (AGENTLM, AGENTTUNING)
    sources = PUBLISHED
    source_files = FILES
    max_samples = 80

    def versions(self, setting: Setting) -> Mapping[str, str]:
        """Whose words the judge is asked in."""
        return {"judge prompts": "ours" if setting.source.directory is None else "FastChat's"}

    # --- items ---------------------------------------------------------------------------------------------------
    def samples(self, setting: Setting) -> list[Sample]:
        """The official questions with GPT-4's reference answers, or our own."""
        source = setting.source
        if source.is_own:
            rows, references = own_samples(__file__), {}
        else:
            rows = read_lines(source.path(*QUESTIONS))
            references = {} if source.directory is None else _references(setting)
        samples = []
        for index, row in enumerate(rows):
            turns, category = row.get("turns"), row.get("category")
            if not isinstance(turns, list) or len(turns) != TURNS or not isinstance(category, str):
                raise DataError(f"MT-Bench's item {index} has no category or not {TURNS} turns")
            reference = references.get(row.get("question_id"), row.get("reference"))
            if category in judging.NEEDS_REFERENCE and (
                not isinstance(reference, list) or len(reference) < TURNS
            ):
                raise DataError(
                    f"MT-Bench's item {index} ({category}) has no reference answer for both turns"
                )
            body = {"turns": turns, "category": category, "reference": reference}
            samples.append(Sample(str(row.get("question_id", index)), body, None, category))
        return samples

    # --- an episode ----------------------------------------------------------------------------------------------
    def decoding(self, protocol: str) -> Decoding:
        """At most 4,096 tokens as published, 1,024 in ours; the temperature is the category's."""
        return Decoding(max_new_tokens=4096 if protocol == AGENTTUNING else 1024)

    async def solve(self, episode: Episode) -> Any:
        """Two turns, then two judgements."""
        if episode.judge is None:
            raise RequirementError("MT-Bench needs a judge: --judge-url URL [--judge-model NAME]")
        body = episode.sample.input
        prompts = _judge_prompts(episode.setting)
        if episode.protocol == AGENTTUNING:
            episode.system(episode.texts["system"])
        temperature = TEMPERATURES.get(body["category"], 0.7)
        answers: list[str] = []
        for question in body["turns"]:
            episode.user(question)
            answers.append((await episode.ask(temperature=temperature)).strip())
            # The second turn sees the first answer as the judge does, without blanks round it.
            episode.messages[-1] = replace(episode.messages[-1], content=answers[-1])
        judge, origin = episode.judge.name, episode.judge.origin
        why_not = judging.incomparable(judge, origin)
        episode.notes |= {"judge": f"{judge} ({origin or 'in this process'})", "comparable": why_not is None}
        if why_not is not None:
            episode.notes["incomparable"] = why_not
        ratings, judgements = [], []
        for turn in range(1, TURNS + 1):
            asked = judging.request(prompts, body["category"], body["turns"], answers, _usable(body), turn)
            decoding = Decoding(max_new_tokens=judging.MAX_TOKENS)
            said = await judged(episode.judge.generate(asked, decoding, episode.seed("judge", turn)))
            judgements.append(said.text)
            ratings.append(judging.rating(said.text))
        return {"answers": answers, "ratings": ratings, "judgements": judgements, "judge": judge}

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """The mean of both ratings; a missing one is the judge's fault."""
        del sample, protocol
        details = {key: answer[key] for key in ("ratings", "judgements", "judge")}
        missing = [turn for turn, value in enumerate(answer["ratings"], 1) if value is None]
        if missing:
            return harness_fault(f"the judge gave no rating of turn {missing[0]}", **details)
        value = sum(answer["ratings"]) / TURNS
        return right(value, **details) if value >= GOOD else wrong(value, **details)

    def numbers(self, scores: Mapping[str, Sequence[Score]]) -> Mapping[str, float]:
        """The mean rating of each turn."""
        judged = [
            s for of_sample in scores.values() for s in of_sample if s.outcome is not Outcome.HARNESS_FAULT
        ]
        if not judged:
            return {}
        return {
            f"turn {turn + 1}": sum(score.details["ratings"][turn] for score in judged) / len(judged)
            for turn in range(TURNS)
        }

    def scripted_judge(self) -> Agent | None:
        """One that gives full marks to whatever is not the answer of the agent that does nothing."""
        nothing = self.nothing()("")
        return lambda prompt: "[[1]]" if nothing in _text(prompt) else "[[10]]"

    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        """The reference answers, where there are any."""
        del protocol
        references = sample.input["reference"]
        return scripted(*map(str, references)) if references else None


def _usable(body: Mapping[str, Any]) -> Sequence[str] | None:
    reference = body["reference"]
    return [str(text) for text in reference] if isinstance(reference, list) else None


def _references(setting: Setting) -> dict[Any, list[str]]:
    rows = read_lines(setting.source.path(*REFERENCES))
    try:
        return {row["question_id"]: row["choices"][0]["turns"] for row in rows}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"a reference answer of MT-Bench lacks {error}") from error


def _judge_prompts(setting: Setting) -> Mapping[str, judging.JudgePrompt]:
    if setting.source.directory is None:
        return judging.OWN
    return judging.read_prompts(setting.source.path(*JUDGE_PROMPTS))


TASK = MTBench()


def _text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(message.content for message in prompt)
