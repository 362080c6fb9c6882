"""What every test may ask for: the folder of real data, and the repository's root on the import path."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Tests import each other's builders as `tests.…`.
sys.path.insert(0, str(Path(__file__).parent.parent))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that want it are skipped without it."""
    given = os.environ.get("AGENTLM_DATA")
    if not given:
        pytest.skip("AGENTLM_DATA is not set: it names the folder of real data")
    return Path(given)


def pytest_configure() -> None:
    # Before any test imports triton, which transformers does too.
    from tests.kernels.interpreter import interpret_without_gpu

    interpret_without_gpu()
    # A shell starts its background jobs with Ctrl-C ignored, and children inherit that; a person's terminal does not.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
