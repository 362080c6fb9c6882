"""A scripted agent in a model's place, for the doctor and for tests. Refuses to know servers."""

from collections.abc import Sequence

from agentlm_evals.model import Decoding, Generation, Limits, Prompt
from agentlm_evals.task import Agent


class ScriptedModel:
    """Says what its script says; `score` prefers the continuation that the script would say."""

    def __init__(self, agent: Agent, name: str = "script", origin: str = "") -> None:
        self.name = name
        self.origin = origin
        self.limits = Limits()
        self._agent = agent

    async def generate(self, prompt: Prompt, decoding: Decoding, seed: int) -> Generation:
        """The script's reply, cut at the first stop string as a server would."""
        del seed
        text, reason = self._agent(prompt), "eos_token"
        places = [place for stop in decoding.stop if (place := text.find(stop)) >= 0]
        if places:
            text, reason = text[: min(places)], "stop_sequence"
        return Generation(text, reason, 0, len(text.split()))

    async def score(
        self, prompt: Prompt, continuations: Sequence[str], window: int | None = None
    ) -> list[float]:
        """0 for the continuation that the script says, and -10 for others."""
        del window
        said = self._agent(prompt).strip()
        return [0.0 if text.strip() == said else -10.0 for text in continuations]

    async def count_prompt_tokens(self, prompt: Prompt) -> int:
        """One token a word."""
        texts = [prompt] if isinstance(prompt, str) else [message.content for message in prompt]
        return sum(len(text.split()) for text in texts)
