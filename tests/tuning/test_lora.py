"""LoRA: peft loads what we write, we go on from what it writes, the server serves it, and merging adds it up."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentlm import LLM, SamplingParams
from agentlm.errors import AdapterError, ConfigError
from agentlm.model.weights import Checkpoint
from agentlm.tuning.log import events
from agentlm.tuning.merge import merge
from agentlm.tuning.run import run
from tests.tuning.runs import config, losses

IDS = list(range(40, 90))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("lora")
    run(config(directory, lora={"rank": 4, "alpha": 8.0}, training__learning_rate=1e-2), quiet=True)
    return directory


def logprobs(model: Path) -> np.ndarray:
    with LLM(str(model), dtype="float32", kv_cache_dtype="float32", threads=1, backend="cpu") as llm:
        (answer,) = llm.generate([IDS], SamplingParams(max_new_tokens=1, prompt_logprobs=True))
    assert answer.prompt_logprobs is not None
    return np.asarray(answer.prompt_logprobs[1:], dtype=np.float32)


def peft_logprobs(base: Path, adapter: Path) -> np.ndarray:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
    ).eval()
    ids = torch.tensor([IDS])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    return torch.log_softmax(logits, -1).gather(1, ids[0, 1:, None]).squeeze(1).numpy()


def test_only_the_adapter_is_trained_and_kept(adapted: Path) -> None:
    curve = losses(adapted / "out")
    assert curve[-1] < curve[0]
    assert not (adapted / "out" / "model").exists()
    checkpoint = Checkpoint.open(adapted / "out" / "adapter")
    assert len(list(checkpoint.tensors())) == 2 * 7 * 2
    size = sum(file.stat().st_size for file in (adapted / "out" / "checkpoints").rglob("*.distcp"))
    base = (adapted / "base" / "model.safetensors").stat().st_size
    assert size < base


def test_peft_and_a_merged_model_agree(adapted: Path, tmp_path: Path) -> None:
    merged = merge(adapted / "base", adapted / "out" / "adapter", tmp_path / "merged")
    expected = peft_logprobs(adapted / "base", adapted / "out" / "adapter")
    np.testing.assert_allclose(logprobs(merged), expected, atol=2e-4)
    assert np.abs(logprobs(adapted / "base") - expected).max() > 1e-2


def test_the_server_serves_the_adapter(adapted: Path) -> None:
    from agentlm._engine import Mailbox
    from agentlm.config import EngineConfig
    from agentlm.runtime.engine import open_engine

    running = open_engine(
        EngineConfig(
            model=str(adapted / "base"), backend="cpu", dtype="float32", kv_cache_dtype="float32", threads=1
        )
    )
    try:
        running.engine.ask("load_adapter", name="tuned", path=str(adapted / "out" / "adapter"))
        mailbox = Mailbox()
        params = SamplingParams(max_new_tokens=1, prompt_logprobs=True)
        request = running.engine.submit(IDS, params, mailbox, 0, adapter="tuned")
        ends: list[Any] = []
        while not ends:
            ends = mailbox.take(5.0)
        del request
        served = [logprob for _, logprob, _ in ends[-1].prompt][1:]
    finally:
        running.close()
    expected = peft_logprobs(adapted / "base", adapted / "out" / "adapter")
    np.testing.assert_allclose(np.asarray(served, dtype=np.float32), expected, atol=2e-4)


def test_training_goes_on_from_an_adapter_of_peft(adapted: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(adapted / "base", dtype=torch.float32)
    targets = ["q_proj", "v_proj"]
    made = get_peft_model(
        model, LoraConfig(r=2, lora_alpha=6, target_modules=targets, init_lora_weights=False)
    )
    made.save_pretrained(tmp_path / "peft")
    lora = {"rank": 2, "alpha": 6.0, "targets": targets, "adapter": str(tmp_path / "peft")}
    quiet = {"training__learning_rate": 1e-12, "training__steps": 1}
    run(config(adapted, output=str(tmp_path / "out"), lora=lora, **quiet), quiet=True)
    before = {t.name: t.bytes() for t in Checkpoint.open(tmp_path / "peft").tensors()}
    after = {t.name: t.bytes() for t in Checkpoint.open(tmp_path / "out" / "adapter").tensors()}
    assert before.keys() == after.keys()
    for name in before:
        a, b = before[name].copy().view(np.float32), after[name].copy().view(np.float32)
        np.testing.assert_allclose(a, b, atol=1e-9)
    with pytest.raises(AdapterError, match="has rank \\[2\\]"):
        run(config(adapted, output=str(tmp_path / "other"), lora=lora | {"rank": 4}), quiet=True)


def test_what_is_trained_is_what_the_merged_model_computes(adapted: Path, tmp_path: Path) -> None:
    """At a scale that is not 1, and not its own square: held-out losses of the run's end and of the merged model."""
    held = {"sources": [{"name": "held", "path": str(adapted / "held.jsonl")}]}
    lora: dict[str, Any] = {"lora": {"rank": 4, "alpha": 12.0}, "training__learning_rate": 1e-2}
    run(config(adapted, output=str(tmp_path / "out"), evaluation=held, **lora), quiet=True)
    merged = merge(adapted / "base", tmp_path / "out" / "adapter", tmp_path / "merged")
    # A step that moves nothing, for the evaluation after it.
    still = {"model__path": str(merged), "training__steps": 1, "training__learning_rate": 1e-12}
    run(config(adapted, output=str(tmp_path / "again"), evaluation=held, **still), quiet=True)
    trained, computed = (
        [
            line["loss"]["held"]
            for line in events(tmp_path / name / "log.jsonl")
            if line["event"] == "evaluation"
        ]
        for name in ("out", "again")
    )
    assert computed == pytest.approx(trained, rel=1e-5)


def test_a_new_adapter_changes_nothing(adapted: Path, tmp_path: Path) -> None:
    # B is zero until the first step, so that the first loss is the base model's.
    run(config(adapted, output=str(tmp_path / "full")), quiet=True)
    assert losses(adapted / "out")[0] == pytest.approx(losses(tmp_path / "full")[0], rel=1e-6)


def test_merging_refuses_what_does_not_fit(adapted: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="is there and not empty"):
        merge(adapted / "base", adapted / "out" / "adapter", tmp_path / "taken")
    adapter = tmp_path / "dora"
    adapter.mkdir()
    for file in (adapted / "out" / "adapter").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    about = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(about | {"use_dora": True}), encoding="utf-8")
    with pytest.raises(AdapterError, match="use_dora"):
        merge(adapted / "base", adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_may_have_several_files(adapted: Path, tmp_path: Path) -> None:
    one = merge(adapted / "base", adapted / "out" / "adapter", tmp_path / "one")
    many = merge(adapted / "base", adapted / "out" / "adapter", tmp_path / "many", shard_bytes=60_000)
    assert len(list(many.glob("model-*.safetensors"))) > 2
    a, b = ({t.name: t.bytes().tobytes() for t in Checkpoint.open(d).tensors()} for d in (one, many))
    assert a == b
    assert math.isclose(float(logprobs(many).sum()), float(logprobs(one).sum()))


def test_the_adapter_s_settings_are_what_peft_writes(adapted: Path, tmp_path: Path) -> None:
    about = json.loads((adapted / "out" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    # An integer, as in peft's own files; a number with a fraction stays one.
    assert (repr(about["lora_alpha"]), about["r"], about["revision"]) == ("8", 4, None)
    run(config(tmp_path, lora={"rank": 4, "alpha": 6.5}, training__steps=1), quiet=True)
    written = json.loads((tmp_path / "out" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert written["lora_alpha"] == 6.5


def test_a_template_of_its_own_goes_with_the_adapter_and_into_the_merged_model(tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    text = (
        "{%- for m in messages %}{{- '<' + m.role + '>' + m.content }}{%- if m.role == 'assistant' %}{{- eos_token }}"
        "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<assistant>' }}{%- endif %}"
    )
    template.write_text(text, encoding="utf-8")
    changes = {"model__chat_template": str(template), "training__steps": 1}
    run(config(tmp_path, lora={"rank": 2, "alpha": 4.0}, **changes), quiet=True)
    assert (tmp_path / "out" / "adapter" / "chat_template.jinja").read_text(encoding="utf-8") == text
    merged = merge(tmp_path / "base", tmp_path / "out" / "adapter", tmp_path / "merged")
    assert (merged / "chat_template.jinja").read_text(encoding="utf-8") == text
    told = json.loads((merged / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert "chat_template" not in told


def test_low_rank_additions_are_trained_beside_narrow_weights(adapted: Path, tmp_path: Path) -> None:
    changes = {
        "output": str(tmp_path / "out"),
        "training__learning_rate": 1e-2,
        "training__dtype": "bfloat16",
    }
    run(config(adapted, lora={"rank": 4, "alpha": 8.0}, **changes), quiet=True)
    assert losses(tmp_path / "out") == pytest.approx(losses(adapted / "out"), rel=3e-2)
