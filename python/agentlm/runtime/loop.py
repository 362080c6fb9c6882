"""The engine thread: plan, launch, commit, for ever. Refuses to know requests, models and text."""

from typing import Protocol

from agentlm._engine import Engine
from agentlm.errors import AgentLMError, EngineFailedError

MUST_COMMIT = -1
CLOSED = -2
CONTROL = -3


class Runner(Protocol):
    """Computes planned steps. `depth` steps may be in flight; a synchronous runner has depth 1."""

    depth: int

    def launch(self, slot: int) -> None:
        """Starts the step planned in `slot`; a synchronous runner also ends it."""
        ...

    def wait(self) -> None:
        """Returns when the oldest launched step's results lie in its slot."""
        ...

    def control(self, kind: str, path: str, number: int) -> None:
        """Does between two steps what was asked: `load_adapter`, `unload_adapter`, `reload_weights`, `sleep`, `wake`.

        Raises an `AgentLMError` if nothing was changed, `EngineFailedError` if the runner cannot go on.
        """
        ...

    def close(self) -> None:
        """Gives back what it holds; called once, by the thread that launched, while the engine's memory is there."""
        ...


def run_engine(engine: Engine, runner: Runner) -> None:
    """Drives `engine` until it is closed. Any error ends every request with it and turns the engine's health off."""
    in_flight = 0
    try:
        while (slot := engine.next_step()) != CLOSED:
            if slot == CONTROL:
                engine.finish_control(_carry_out(engine, runner))
                continue
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
        try:
            runner.close()
        finally:
            engine.abandon()


def _carry_out(engine: Engine, runner: Runner) -> str | None:
    """Does what the engine asks for; the reason if it could not be done."""
    asked = engine.control()
    if asked is None:
        return None
    kind, _name, path, number = asked
    try:
        runner.control(kind, path, number)
    except EngineFailedError:
        raise
    except AgentLMError as error:
        return str(error)
    return None
