"""The engine thread: plan, launch, commit, for ever. Refuses to know requests, models and text."""

from typing import Protocol

from agentlm._engine import Engine

MUST_COMMIT = -1
CLOSED = -2


class Runner(Protocol):
    """Computes planned steps. `depth` steps may be in flight; a synchronous runner has depth 1."""

    depth: int

    def launch(self, slot: int) -> None:
        """Starts the step planned in `slot`; a synchronous runner also ends it."""
        ...

    def wait(self) -> None:
        """Returns when the oldest launched step's results lie in its slot."""
        ...


def run_engine(engine: Engine, runner: Runner) -> None:
    """Drives `engine` until it is closed. Any error ends every request with it and turns the engine's health off."""
    in_flight = 0
    try:
        while (slot := engine.next_step()) != CLOSED:
            if slot != MUST_COMMIT:
                runner.launch(slot)
                in_flight += 1
            if slot == MUST_COMMIT or in_flight == runner.depth:
                runner.wait()
                engine.commit()
                in_flight -= 1
    except BaseException as error:
        engine.fail(f"{type(error).__name__}: {error}")
        raise
    finally:
        engine.abandon()
