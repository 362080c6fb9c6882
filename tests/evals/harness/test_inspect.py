"""The same tasks and servers from within Inspect."""

from pathlib import Path

import pytest

from tests.server.live import served


@pytest.mark.slow
def test_inspect_runs_our_tasks_against_our_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_DISPLAY", "none")
    from inspect_ai import eval as inspect_eval
    from inspect_ai.model import get_model

    from agentlm_evals.inspect_tasks import AgentLMProvider, inspect_task

    with served("--backend", "mock") as live:
        model = get_model(f"agentlm/http://127.0.0.1:{live.port}", memoize=False)
        assert isinstance(model.api, AgentLMProvider)
        for name in ("gsm8k", "mmlu"):
            (log,) = inspect_eval(
                inspect_task(name, limit=3), model=model, log_dir=str(tmp_path), max_tokens=8
            )
            assert log.status == "success", log.error
            assert log.samples is not None
            assert [sample.id for sample in log.samples] == ["own-01", "own-02", "own-03"]
            for sample in log.samples:
                assert sample.scores is not None
                assert sample.scores["worth"].metadata is not None
                assert sample.scores["worth"].metadata["outcome"] in ("right", "wrong", "format or limit")
