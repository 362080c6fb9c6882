"""The mock runner: deterministic tokens at a set pace. Refuses to know models; chosen by name, never a fallback."""

from agentlm._engine import Engine, MockRunner, Tokenizer


class MockStepRunner:
    """Runs steps without a model; a step takes `step_time` seconds."""

    depth = 1

    def __init__(self, engine: Engine, tokenizer: Tokenizer, step_time: float) -> None:
        self._runner = MockRunner(engine, tokenizer, step_time)

    def launch(self, slot: int) -> None:
        """Runs the step planned in `slot`."""
        self._runner.run(slot)

    def wait(self) -> None:
        """Nothing is ever in flight."""

    def control(self, kind: str, path: str, number: int) -> None:
        """There are no weights, no adapters and no memory to speak of: everything is done at once."""

    def close(self) -> None:
        """It holds nothing."""
