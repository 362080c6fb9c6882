"""Progress bars on standard error. Refuses to know what progresses."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def wanted() -> bool:
    """Whether somebody would see a bar: standard error is there, and a terminal or a notebook's."""
    return sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)


@contextmanager
def loading_progress(show: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Yields `advance(bytes done, bytes in all, tensor name)`, or None when nothing is shown."""
    if not show:
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc="loading weights", unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr) as bar:

        def advance(done: int, total: int, _name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield advance


@contextmanager
def generation_progress(requests: int, show: bool) -> Iterator[Callable[[int], None]]:
    """Yields `advance(tokens)`, to be called once a finished request; the bar shows requests and tokens/s."""
    if not show:
        yield lambda _tokens: None
        return
    import time

    from tqdm import tqdm

    began = time.monotonic()
    generated = 0
    with tqdm(total=requests, desc="generating", unit="request", file=sys.stderr) as bar:

        def advance(tokens: int) -> None:
            nonlocal generated
            generated += tokens
            speed = generated / max(time.monotonic() - began, 1e-9)
            bar.set_postfix_str(f"{speed:.0f} tokens/s", refresh=False)
            bar.update()

        yield advance
