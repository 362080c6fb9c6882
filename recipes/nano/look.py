"""What a small model says, and how well it does: some answers to read, and a score of each world and of questions.

    python recipes/nano/look.py MODEL_DIRECTORY [--episodes 50]

Refuses to know how it was trained. Test items and test questions are none that a corpus of ours holds.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from agentlm_evals.environments import WORLDS, Item, Split
from agentlm_evals.episode import play_all, summary
from agentlm_evals.model import Decoding, Message
from agentlm_evals.models.choice import ModelChoice, open_model, served_urls
from agentlm_evals.models.served import ServedModel
from agentlm_evals.nano import chats

GREETINGS = (
    "Hello!",
    "Who are you?",
    "What can you do?",
    "What is a river?",
    "What is the capital of France?",
)
CONCURRENCY = 32


async def answers(model: ServedModel, questions: Sequence[str]) -> list[str]:
    """The likeliest reply to each question."""
    free = asyncio.Semaphore(CONCURRENCY)

    async def one(question: str) -> str:
        async with free:
            reply = await model.generate([Message("user", question)], Decoding(64), 0)
        return reply.text.strip()

    return list(await asyncio.gather(*map(one, questions)))


async def look(urls: Sequence[str], choice: ModelChoice, episodes: int) -> None:
    """Prints what there is to see."""
    async with open_model(choice, urls) as model:
        for question, reply in zip(GREETINGS, await answers(model, GREETINGS), strict=True):
            print(f"{question}\n    {reply}")
        print()
        rng = Random(0)
        for kind in chats.TESTED:
            asked = [chats.draw(kind, Split.TEST, rng) for _ in range(episodes)]
            replies = await answers(model, [exchange.question for exchange in asked])
            right = [exchange.wanted in reply for exchange, reply in zip(asked, replies, strict=True)]
            example = f"{asked[0].question} -> {replies[0]!r}"
            print(f"{kind:10} {100 * sum(right) / len(right):5.1f}  {example}")
        print()
        items = [Item(name, Split.TEST, number) for name in WORLDS for number in range(episodes)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "episodes.jsonl"
            print(summary(await play_all(items, model, file, source="look", concurrency=CONCURRENCY)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python recipes/nano/look.py", description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--episodes", type=int, default=50, help="of each world, and questions of each kind")
    given = parser.parse_args()
    choice = ModelChoice(model=str(given.model))
    with served_urls(choice) as (urls, _):
        asyncio.run(look(urls, choice, given.episodes))


if __name__ == "__main__":
    main()
