"""Digital Card Game (Aquawar, stage 2): 200 matches, two baseline opponents by two seats by fifty, won or lost.

The engine is ours, in this process. Each match's opponent draws from a generator that the sample names, so that every model
meets the same line-ups and luck; the original's are new in every run. The original takes a match that timed out as won by
the first seat; here there is no clock in the rules. Refuses to know servers.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Any, TypeVar

from agentlm_evals.errors import FormatError
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Message
from agentlm_evals.outcome import Score, format_or_limit, right, wrong
from agentlm_evals.protocols import AGENTLM, AGENTTUNING
from agentlm_evals.protocols.window import sampled, window
from agentlm_evals.task import Agent, Group, Metric, Sample, Setting, Task, scripted
from agentlm_evals.tasks.card_game import prompts, published, replies
from agentlm_evals.tasks.card_game.opponents import OPPONENTS, Opponent
from agentlm_evals.tasks.card_game.perfect import winning_replies
from agentlm_evals.tasks.card_game.recording import RecordedMatch, as_decision, replay
from agentlm_evals.tasks.card_game.rules import End, Kind, Move, Phase
from agentlm_evals.tasks.card_game.sight import Sight, look

_Decision = TypeVar("_Decision")

MATCHES = 50
"""Of each opponent and seat."""
SHOWN = {Phase.GUESS: 3, Phase.ACT: 2}
"""Earlier exchanges of the same kind that the model is shown."""


def opponent_of(sample: Sample, epoch: int = 0) -> Opponent:
    """The sample's opponent, ready for its match; another one in each epoch."""
    return OPPONENTS[sample.input["opponent"]](Random(f"{sample.id} {epoch}"))


class Player:
    """The model's side of a match: what it is asked, and how its replies are read."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.is_published = episode.protocol == AGENTTUNING
        self.unread = 0
        self._exchanges: dict[Phase, list[Message]] = {Phase.GUESS: [], Phase.ACT: []}
        if self.is_published:
            texts = episode.texts
            self._client = published.PublishedClient(texts)
            rules = {Phase.ACT: published.act_rules(texts), Phase.GUESS: published.guess_rules(texts)}
            self._rules = {phase: _pair(text, texts["ready"]) for phase, text in rules.items()}
        else:
            self._rules = dict.fromkeys(Phase, _pair(prompts.RULES, prompts.READY))
        seen = [*self._rules[Phase.ACT], *(self._rules[Phase.GUESS] if self.is_published else ())]
        episode.messages.extend(seen)

    async def guess(self, sight: Sight) -> tuple[int, Kind] | None:
        """The model's guess; None if it makes none, or none that can be read."""
        if not self.is_published and not sight.guessable():
            return None
        try:
            if self.is_published:
                asked, read = self._client.ask_guess(sight), replies.published_guess
            else:
                asked, read = prompts.ask_guess(sight), replies.read_guess
            return await self._decide(Phase.GUESS, asked, lambda reply: read(reply, sight))
        except FormatError:
            return None

    async def act(self, sight: Sight) -> Move:
        """The model's action.

        Raises:
            FormatError: None of five replies holds a legal one.
        """
        if self.is_published:
            asked, read = self._client.ask_move(sight), replies.published_move
        else:
            asked, read = prompts.ask_move(sight), replies.read_move
        return await self._decide(Phase.ACT, asked, lambda reply: read(reply, sight))

    async def _decide(self, phase: Phase, asked: str, read: Callable[[str], _Decision]) -> _Decision:
        """Asks until a reply can be read, five times at most."""
        messages = self.episode.messages
        begun = len(messages)
        why = ""
        for _ in range(prompts.TRIES):
            # The published client asks anew with the same words; ours says what was wrong.
            if self.is_published:
                begun = len(messages)
            self.episode.user(prompts.ask_again(why) if why and not self.is_published else asked)
            shown = self._shown(phase, messages[begun:])
            reply = await self.episode.ask(history=lambda _, shown=shown: shown)  # type: ignore[misc]
            try:
                decision = read(reply)
            except FormatError as error:
                self.unread += 1
                why = str(error)
                continue
            self._exchanges[phase] += [Message("user", asked), Message("assistant", reply)]
            return decision
        raise FormatError(why)

    def _shown(self, phase: Phase, asked: list[Message]) -> list[Message]:
        """The rules, the last exchanges and what is asked; the published protocol puts the rules behind the exchanges."""
        exchanges = self._exchanges[phase][-2 * SHOWN[phase] :]
        if self.is_published:
            shown = window([*exchanges, *self._rules[phase], *asked])
            return [replace(message, content=message.content.strip()) for message in shown]
        return [*self._rules[phase], *exchanges, *asked]


def _pair(text: str, answer: str) -> list[Message]:
    return [Message("user", text), Message("assistant", answer, loss=False)]


class CardGame(Task):
    """Win rate over 200 matches."""

    name, title, group = "card-game", "DCG", Group.HELD_OUT
    metric = Metric("win rate")
    published_mean = 15.90
    needs_no_data = True
    protocols = (AGENTLM, AGENTTUNING)
    sources, source_files = published.SOURCES, published.FILES
    assumptions = MappingProxyType(
        {
            AGENTTUNING: "opponents draw from a generator named by the match; memory that the original client never wrote "
            "is taken as 0"
        }
    )
    max_samples = 4 * MATCHES

    def samples(self, setting: Setting) -> list[Sample]:
        """Every match: opponents and seats in turn, so that the first few are a fair mixture. Needs no data."""
        del setting
        return [
            Sample(
                f"{opponent}-seat{seat}-{number:02}",
                {"opponent": opponent, "seat": seat},
                category=f"{opponent}, {'second' if seat else 'first'} to move",
            )
            for number in range(MATCHES)
            for opponent in OPPONENTS
            for seat in (0, 1)
        ]

    def decoding(self, protocol: str) -> Decoding:
        """512 tokens; the published client samples at 0.7 (its server took any temperature but 1 for that)."""
        if protocol == AGENTTUNING:
            return sampled(512)
        return Decoding(max_new_tokens=512)

    async def solve(self, episode: Episode) -> Any:
        """Plays one match; returns it, as it can be played again."""
        seat = int(episode.sample.input["seat"])
        opponent = opponent_of(episode.sample, episode.epoch)
        line_ups = [list(Kind), opponent.line_up()]
        recorded = RecordedMatch((line_ups[seat], line_ups[1 - seat]))
        match = recorded.match
        player = Player(episode)
        while match.winner is None:
            if match.player != seat:
                recorded.decide(as_decision(match, opponent.decide(match)))
                continue
            sight = look(match)
            if match.phase is Phase.GUESS:
                recorded.decide(as_decision(match, await player.guess(sight)))
                continue
            try:
                move = await player.act(sight)
            except FormatError as error:
                episode.notes["forfeit"] = str(error)
                recorded.decide(["forfeit"])
            else:
                recorded.decide(as_decision(match, move))
        return {"seat": seat, "unread": player.unread, **recorded.to_json()}

    def score(self, sample: Sample, answer: Any, protocol: str) -> Score:
        """Plays the match again: won is right, lost for want of a legal move is a matter of form."""
        del sample, protocol
        match, seat = replay(answer), answer["seat"]
        guesses = [entry for entry in _made(answer, seat) if entry[0] == "guess"]
        details = {
            "end": match.end,
            "decisions": match.decisions,
            "living": [len(match.living(player)) for player in (seat, 1 - seat)],
            "guesses": len(guesses),
            "right guesses": sum(fish.is_revealed for fish in match.sides[1 - seat]),
            "replies without a decision": answer["unread"],
        }
        if match.winner == seat:
            return right(**details)
        if match.end is End.FORFEIT:
            return format_or_limit(f"no legal action in {prompts.TRIES} replies", **details)
        return wrong(**details)

    def gold(self, sample: Sample, protocol: str) -> Agent | None:
        """The replies of a player who knows the enemy's line-up and found a match that it wins."""
        replies = winning_replies(
            lambda: opponent_of(sample), sample.input["seat"], asks_always=protocol == AGENTTUNING
        )
        return scripted(*replies) if replies else None


def _made(answer: Any, seat: int) -> Iterator[Any]:
    """The decisions of one seat: two a turn, the first seat's first."""
    for index, entry in enumerate(answer["decisions"]):
        if index // 2 % 2 == seat:
            yield entry


TASK = CardGame()
"""The task."""
