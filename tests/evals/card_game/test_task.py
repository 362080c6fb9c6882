"""The card game as a task: what is asked and in which order, how a match ends, what it scores."""

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from agentlm_evals.harness.doctor import examine
from agentlm_evals.harness.episode import Episode
from agentlm_evals.model import Decoding, Message, Prompt
from agentlm_evals.models.scripted import ScriptedModel
from agentlm_evals.models.template import llama2
from agentlm_evals.outcome import Outcome
from agentlm_evals.protocols import AGENTLM, AGENTTUNING, Protocol
from agentlm_evals.protocols.source import load
from agentlm_evals.protocols.window import window
from agentlm_evals.task import Agent, Sample, Setting, Source, scripted
from agentlm_evals.tasks.card_game import TASK, Player, opponent_of
from agentlm_evals.tasks.card_game.prompts import READY, RULES
from agentlm_evals.tasks.card_game.recording import RecordedMatch, as_decision
from agentlm_evals.tasks.card_game.rules import Kind, Phase
from agentlm_evals.tasks.card_game.sight import look

OWN = Setting(Source(), Protocol(AGENTLM))
FIXED = Path(__file__).parent / "published.jsonl"


def episode(agent: Agent, sample: Sample | None = None, epoch: int = 0) -> Episode:
    sample = sample or TASK.samples(OWN)[0]
    return Episode(sample, OWN, ScriptedModel(agent), Decoding(max_new_tokens=512), epoch=epoch)


class Recorder:
    """An agent that keeps every prompt."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.prompts: list[Sequence[Message]] = []

    def __call__(self, prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        self.prompts.append(list(prompt))
        return self.agent(prompt)


def test_two_hundred_matches_any_first_few_a_fair_mixture() -> None:
    samples = TASK.samples(OWN)
    assert len({sample.id for sample in samples}) == len(samples) == TASK.max_samples == 200
    assert set(Counter(sample.category for sample in samples).values()) == {50}
    assert len({sample.category for sample in samples[:4]}) == 4


def test_line_ups_are_the_samples_own_and_others_in_another_epoch() -> None:
    samples = TASK.samples(OWN)
    line_ups = [tuple(opponent_of(sample).line_up()) for sample in samples]
    assert line_ups == [tuple(opponent_of(sample).line_up()) for sample in samples]
    assert line_ups != [tuple(opponent_of(sample, 1).line_up()) for sample in samples]
    assert len(set(line_ups)) == 24, "all orders of four kinds come up"


async def test_every_match_can_be_won_and_none_by_doing_nothing() -> None:
    finding = await examine(TASK, OWN)
    assert (finding.gold, finding.solved, finding.nothing_solved) == (200, 200, 0)


async def test_who_says_nothing_of_use_forfeits_after_five_replies() -> None:
    recorder = Recorder(scripted("AAAAA"))
    run = episode(recorder)
    answer = await TASK.solve(run)
    assert answer["decisions"] == [["skip"], ["forfeit"]]
    assert len(recorder.prompts) == 5 + 5
    score = TASK.score(run.sample, answer, AGENTLM)
    assert (score.outcome, score.value) == (Outcome.FORMAT_OR_LIMIT, 0)
    assert score.details["why"] == "no legal action in 5 replies"
    assert score.details["replies without a decision"] == 10
    assert "there is no object of the form" in run.notes["forfeit"]


async def test_a_scripted_match_scores_what_was_worked_out_by_hand() -> None:
    # The second seat's first guess is never made; its spray strikes once, and then it has nothing legal to say.
    sample = next(
        sample for sample in TASK.samples(OWN) if sample.input == {"opponent": "baseline2", "seat": 1}
    )
    replies = ('{"guess_type": "none"}', '{"pick_fish": "spray", "action": "active"}', "AAAAA")
    run = episode(scripted(*replies), sample)
    answer = await TASK.solve(run)
    mine = [entry for at, entry in enumerate(answer["decisions"]) if at // 2 % 2 == 1]
    assert mine == [["skip"], ["skill", 0, None], ["skip"], ["forfeit"]]
    score = TASK.score(sample, answer, AGENTLM)
    assert score.outcome is Outcome.FORMAT_OR_LIMIT
    assert score.details["decisions"] == 2 + 4 + 2 + 1
    assert (score.details["guesses"], score.details["right guesses"]) == (0, 0)


async def test_a_lost_match_is_wrong_and_not_a_matter_of_form() -> None:
    def weak(prompt: Prompt) -> str:
        """Leaves guesses out, and only ever turns on its own."""
        state = json.loads(re.findall(r'\{"You": .*\}', prompt[-1].content)[0])  # type: ignore[union-attr]
        own = [fish for fish in state["You"] if int(fish["HP"]) > 0]
        enemy = next(fish["POSITION"] for fish in state["Enemy"] if int(fish["HP"]) > 0)
        names = [fish["ID"] for fish in own]
        fish = next((name for name in ("flame", "sunfish") if name in names), names[0])
        mates = [fish_["POSITION"] for fish_ in own if fish_["ID"] != fish]
        infight = fish in ("flame", "sunfish") and mates
        move = {
            "pick_fish": fish,
            "action": "active" if infight else "normal",
            "target_position": (mates or [enemy])[0],
        }
        return '{"guess_type": "none"}' + json.dumps(move if infight else move | {"target_position": enemy})

    run = episode(weak)
    answer = await TASK.solve(run)
    score = TASK.score(run.sample, answer, AGENTLM)
    assert (score.outcome, score.value) == (Outcome.WRONG, 0)
    assert score.details["living"][0] == 0


def test_our_rules_have_the_engines_numbers() -> None:
    """Hazard 12: the original's prompt has the shares of a deflection reversed."""
    assert "they take 70% of the damage and their living team-mates share the other 30%" in RULES
    assert "spray: hits every living enemy for 70." in RULES
    assert "eel: hits every living enemy for 35% of its own attack." in RULES
    assert "loses 50 health" in RULES
    assert "made 128 decisions" in RULES


async def test_our_rules_come_first_and_the_last_exchanges_behind_them() -> None:
    """Hazard 13: the original's rules stand in the middle of the dialogue."""
    gold = TASK.gold(TASK.samples(OWN)[0], AGENTLM)
    assert gold is not None
    recorder = Recorder(gold)
    run = episode(recorder)
    await TASK.solve(run)
    lengths = {"guess": set(), "action": set()}  # type: ignore[var-annotated]
    for prompt in recorder.prompts:
        assert [message.content for message in prompt[:2]] == [RULES, READY]
        assert not prompt[1].loss
        roles = [message.role for message in prompt]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        kind = "guess" if "Make your guess" in prompt[-1].content else "action"
        assert all(("Make your guess" in turn.content) == (kind == "guess") for turn in prompt[2::2])
        lengths[kind].add(len(prompt) // 2 - 1)
    assert lengths["guess"] <= {0, 1, 2, 3}
    assert lengths["action"] == {0, 1, 2}
    # The trajectory has the rules once and turns that alternate, as training wants it.
    roles = [message.role for message in run.messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2)


async def test_a_reply_that_cannot_be_played_is_answered_with_the_reason() -> None:
    replies = (
        '{"guess_type": "none"}',
        '{"pick_fish": "spray", "action": "normal", "target_position": "9"}',
        "AAAAA",
    )
    recorder = Recorder(scripted(*replies))
    await TASK.solve(episode(recorder))
    asked = recorder.prompts[2]
    assert asked[-2].content == replies[1]
    assert "target_position must be a living enemy (0, 1, 2, 3); given: '9'" in asked[-1].content


def test_long_dialogues_lose_their_oldest_turns_but_the_first() -> None:
    turns = [Message("user" if at % 2 == 0 else "assistant", f"{at}: " + "word " * 700) for at in range(9)]
    shown = window(turns)
    # 700 words, a figure and a colon are 702 segments: less than 3,500 hold four messages, the first and the last three, of
    # which the oldest would be a user's.
    assert [message.content.split(":")[0] for message in shown] == ["0", "7", "8"]
    assert shown[0].content.endswith("\n\n[NOTICE] 6 messages are omitted.")
    assert window(turns[:3]) == turns[:3]


# --- the published protocol ------------------------------------------------------------------------------------------


def _published() -> Setting:
    if not (directory := os.environ.get("AGENTLM_PROTOCOLS")):
        pytest.skip("needs a checkout of THUDM/AgentTuning: $AGENTLM_PROTOCOLS names no directory")
    return Setting(Source(), load("card-game", Path(directory)))


@pytest.mark.parametrize("at", range(5))
async def test_the_published_dialogue_is_the_originals_to_the_byte(at: int) -> None:
    """A match that the original played with this script for a model: every prompt that it made, and every decision."""
    fixed = json.loads(FIXED.read_text().splitlines()[at])
    setting = _published()
    prompts: list[str] = []
    replies = iter(fixed["replies"])

    def agent(prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        prompts.append(llama2(prompt))
        # A script that talks much makes the dialogue longer than the original shows.
        return "word " * fixed["padding"] + str(next(replies))

    player = Player(Episode(Sample("1", {}), setting, ScriptedModel(agent), Decoding(max_new_tokens=512)))
    first, second = ([Kind(kind) for kind in side] for side in fixed["line_ups"])
    recorded = RecordedMatch((first, second))
    match = recorded.match
    for decision in fixed["decisions"]:
        if match.player == fixed["seat"]:
            sight = look(match)
            made = await (player.guess(sight) if match.phase is Phase.GUESS else player.act(sight))
            assert list(as_decision(match, made)) == decision
        recorded.decide(decision)
    assert setting.protocol.template == "llama-2"
    assert [sha256(prompt.encode()).hexdigest() for prompt in prompts] == fixed["sha256"]


async def test_every_match_can_be_won_by_the_published_protocol() -> None:
    finding = await examine(TASK, _published(), 40)
    assert (finding.gold, finding.solved, finding.nothing_solved) == (40, 40, 0)


def test_the_published_client_samples() -> None:
    decoding = TASK.decoding(AGENTTUNING)
    assert (decoding.temperature, decoding.max_new_tokens, decoding.truncate) == (0.7, 512, 3584)
