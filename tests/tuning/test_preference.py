"""Direct preference optimization: pairs of one item, the gradient of the published loss, and a run that prefers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentlm.errors import ConfigError
from agentlm.tuning.account import plan_of
from agentlm.tuning.batches import make_batch
from agentlm.tuning.config import TrainingSection, TuneConfig
from agentlm.tuning.log import events
from agentlm.tuning.parallel import Ranks
from agentlm.tuning.preference import PreferenceTrainer, find_pairs, plan_pairs
from agentlm.tuning.rendering import Rendered, render
from agentlm.tuning.run import run
from tests.tuning.runs import TRIES, load, settings, tensors, trajectory, write_base, write_records


def preferring(directory: Path, records: list[dict[str, Any]], **changes: Any) -> TuneConfig:
    values = settings(directory)
    write_records(directory / "tries.jsonl", records)
    values["data"] = {"length": 160, "sources": [{"name": "tries", "path": str(directory / "tries.jsonl")}]}
    values["dpo"] = {"beta": 0.1}
    values["training"] |= {"batch": 3}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = values[section] | {name: value}
    return TuneConfig.from_dict(values)


def rendered_of(config: TuneConfig, directory: Path) -> Rendered:
    return render(
        config.data.sources,
        directory / "base",
        template=None,
        length=160,
        over_length="drop",
        cache=directory / "kept",
    )


def test_the_best_is_paired_with_the_worst_of_its_item(tmp_path: Path) -> None:
    records = [
        *(trajectory(0, f"answer {reward}", reward) for reward in (0.5, 1.0, 0.0, 0.25)),
        trajectory(1, "alone", 1.0),
        trajectory(2, "same", 1.0),
        trajectory(2, "same too", 1.0),
        trajectory(3, "no reward", None),
        trajectory(3, "a reward", 1.0),
        trajectory(4, "good", 1.0),
        trajectory(4, "bad", 0.0, prompt="Otherwise:"),
    ]
    rendered = rendered_of(preferring(tmp_path, records), tmp_path)
    pairs = find_pairs(rendered, 0.0)
    assert list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)) == [(1, 2), (0, 3)]
    assert pairs.other_prompts == 1
    assert len(find_pairs(rendered, 0.25)) == 1
    with pytest.raises(ConfigError, match="no such pair"):
        find_pairs(rendered, 1.0)


def test_a_plan_has_every_pair_whole_once_an_epoch(tmp_path: Path) -> None:
    config = preferring(tmp_path, TRIES)
    rendered = rendered_of(config, tmp_path)
    pairs = find_pairs(rendered, 0.0)
    plan = plan_pairs(pairs, rendered.lengths, seed=0, batch=4, capacity=160, epochs=2.0)
    assert plan.counts(len(rendered)).tolist() == [2] * 12
    for step in plan.steps:
        own = {conversation for pack in step for conversation in pack}
        assert all((c in own) == (r in own) for c, r in zip(pairs.chosen, pairs.rejected, strict=True))
    assert len(plan_of(config, rendered, pairs).steps) == 4


def test_the_gradient_is_that_of_the_published_loss(tmp_path: Path) -> None:
    write_base(tmp_path / "base")
    config = preferring(tmp_path, TRIES)
    rendered = rendered_of(config, tmp_path)
    pairs = find_pairs(rendered, 0.0)
    plan = plan_pairs(pairs, rendered.lengths, seed=0, batch=3, capacity=160, steps=1)
    model = load(tmp_path / "base")
    reference = np.random.default_rng(0).uniform(20, 60, len(rendered))
    training = TrainingSection(steps=1)
    ranks = Ranks(0, 1, torch.device("cpu"), 1, None, owned=False)
    optimizer = torch.optim.SGD(model.parameters())
    trainer = PreferenceTrainer(
        model, optimizer, training, rendered, plan, ranks, pairs=pairs, beta=0.3, reference=reference
    )
    (packs,) = plan.steps
    conversations = np.asarray([one for pack in packs for one in pack])
    _, loss, _ = trainer.gradients(packs, conversations, 1)
    ours = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    # The same by autograd: log-probabilities of whole logits, added up by trajectory.
    own = np.isin(pairs.chosen, conversations)
    total = torch.zeros(())
    for chosen, rejected in zip(pairs.chosen[own].tolist(), pairs.rejected[own].tolist(), strict=True):
        gains = []
        for conversation in (chosen, rejected):
            batch, _ = make_batch(rendered, [(conversation,)], torch.device("cpu"))
            logits = model.hidden(batch.context) @ model.get_parameter("lm_head.weight").t()
            logprobs = torch.log_softmax(logits[batch.rows], -1).gather(1, batch.targets[:, None])
            gains.append(logprobs.sum() + reference[conversation])
        total = total - torch.nn.functional.logsigmoid(0.3 * (gains[0] - gains[1])) / int(own.sum())
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(ours[name], parameter.grad, rtol=2e-4, atol=1e-6)


def test_a_run_learns_to_prefer_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = preferring(tmp_path, TRIES, training__steps=6)
    run(config, quiet=True)
    steps = [line for line in events(tmp_path / "out" / "log.jsonl") if line["event"] == "step"]
    # At the start nothing is preferred: the loss is that of a coin.
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert steps[-1]["accuracy"] == 1.0
    assert steps[-1]["loss"] < 0.5
    from tests.tuning.test_run import interrupted_after

    parts = preferring(tmp_path, TRIES, training__steps=6)
    object.__setattr__(parts, "output", str(tmp_path / "parts"))
    with monkeypatch.context() as patch:
        interrupted_after(patch, 3)
        run(parts, quiet=True)
    run(parts, resume=True, quiet=True)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data__over_length", "split", "a pair is of whole trajectories"),
        ("data__tag_weights", {"x": 2.0}, "every pair is drawn once an epoch"),
        ("model__init", "random", "nothing to prefer yet"),
        ("dpo__beta", 0.0, "`dpo.beta` must be a number above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, key: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        preferring(tmp_path, TRIES, **{key: value})
