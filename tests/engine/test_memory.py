"""How much memory counts as free, and how the block pool is sized from it."""

import math

import pytest

from agentlm import LLM
from agentlm.errors import ConfigError, OutOfMemoryError
from agentlm.model.config import ModelConfig
from agentlm.model.decoder import Decoder, checked
from agentlm.model.layout import EMBEDDING, HEAD, held_bytes
from agentlm.model.weights import Checkpoint
from agentlm.runtime.cpu import weights_bytes
from agentlm.runtime.memory import (
    BLOCK_SIZE,
    available,
    check_weights,
    group_free,
    machine_free,
    plan_kv_cache,
)
from tests.engine import control_groups
from tests.engine.cpu_models import checkpoint
from tests.model import families
from tests.model.safetensors_files import read_tensors, write_safetensors
from tests.model.small import make_small

BYTES = 1000
"""Of one block, in these tests."""


def test_this_machine_has_free_memory():
    assert 0 < available() < 2**50


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/\n", {}, 2000 * 1024),
        ("0::/\n", control_groups.memory("", 5000, 4000), 1000),
        ("5:memory:/\n", control_groups.memory_1("", 5000, 4000), 1000),
        ("0::/\n", control_groups.memory("", 2**40, 4000), 2000 * 1024),
        ("0::/\n", control_groups.memory("", 5000, 6000), 0),
    ],
    ids=["no group", "version 2", "version 1", "a limit above what the machine has", "over its limit"],
)
def test_what_is_available_is_the_least_of_machine_and_control_groups(tmp_path, membership, files, free):
    root = control_groups.write(tmp_path, membership, files)
    (root / "proc" / "meminfo").write_text("MemAvailable:  2000 kB\n")
    assert available(root) == free


def test_the_machines_free_memory_is_read(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16000 kB\nMemFree:  100 kB\nMemAvailable:  2000 kB\n")
    assert machine_free(meminfo) == 2000 * 1024
    assert machine_free(tmp_path / "missing") > 0


OWN = "0::/docker/abc\n"
"""Membership of a process in version 2's hierarchy."""
OWN_1 = "3:cpu,cpuacct:/\n5:memory,hugetlb:/docker/abc\n1:name=systemd:/\n"
UNLIMITED = 2**63 - 4096
"""What version 1 says where there is no limit."""


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        (OWN, control_groups.memory("docker/abc/", 5000, 4000, cache=1500), [2500]),
        (OWN, control_groups.memory("docker/abc/", "max", 4000), []),
        (
            OWN,
            control_groups.memory("docker/abc/", 5000, 1000)
            | control_groups.memory("docker/", 6000, 5500)
            | control_groups.memory("", 9000, 6000),
            [4000, 500, 3000],
        ),
        (
            OWN,
            control_groups.memory("docker/abc/", "max", 1000) | control_groups.memory("docker/", 6000, 5500),
            [500],
        ),
        # What is mounted is the group itself, or it is not known which it is.
        ("0::/\n", control_groups.memory("", 5000, 4000), [1000]),
        (None, control_groups.memory("", 5000, 4000), [1000]),
        ("0::/../elsewhere\n", control_groups.memory("", 5000, 4000), [1000]),
        (OWN_1, control_groups.memory_1("", 5000, 4000, cache=1500), [2500]),
        (
            OWN_1,
            control_groups.memory_1("docker/abc/", 5000, 4000) | control_groups.memory_1("", UNLIMITED, 6000),
            [1000, UNLIMITED - 6000],
        ),
        # Another group's limit, and another controller's place, are nobody's business here.
        (OWN, control_groups.memory("docker/other/", 10, 10), []),
        ("5:memory:/mine\n", control_groups.memory("mine/", 10, 10), []),
        (OWN, {}, []),
    ],
)
def test_every_limit_that_holds_for_the_process_counts_without_its_file_cache(
    tmp_path, membership, files, free
):
    assert group_free(control_groups.write(tmp_path, membership, files)) == free


def test_file_cache_that_is_in_use_counts_as_free_too(tmp_path):
    files = control_groups.memory("", 5000, 4000)
    files["memory.stat"] = "active_file 1000\ninactive_file 500\nfile 3000"
    assert group_free(control_groups.write(tmp_path, "0::/\n", files)) == [2500]


class Counter:
    """Sums the bytes of what the decoder binds: matrices of `element` bytes an element, the table as it lies."""

    def __init__(self, element):
        self.element = element
        self.bytes = 0

    def bind_linear(self, weights, biases):
        self.bytes += self.element * sum(math.prod(weight.shape) for weight in weights)
        self.bytes += 4 * sum(math.prod(bias.shape) for bias in biases or ())
        return 0

    def bind_vector(self, weight):
        self.bytes += 4 * math.prod(weight.shape)
        return 0

    def bind_table(self, weight):
        self.bytes += weight.nbytes
        return 0


@pytest.mark.parametrize("case", families.CASES)
def test_the_weights_take_what_is_bound(case):
    directory = checkpoint(case)
    opened = Checkpoint.open(directory)
    config = checked(ModelConfig.load(directory), opened)
    ops = Counter(element=2)
    Decoder.bind(config, opened, ops)
    assert held_bytes(config, matrix_element=2, table_element=4) == ops.bytes


@pytest.mark.parametrize("repeats", [True, False])
def test_a_tied_models_own_head_is_counted_as_it_is_bound(tmp_path, repeats):
    directory = families.write(tmp_path, "llama2-tied", seed=0)
    tensors = read_tensors(directory / "model.safetensors")
    dtype, shape, table = tensors[EMBEDDING]
    tensors[HEAD] = (dtype, shape, table if repeats else table[::-1])
    write_safetensors(directory / "model.safetensors", tensors)
    opened = Checkpoint.open(directory)
    config = checked(ModelConfig.load(directory), opened)
    ops = Counter(element=2)
    Decoder.bind(config, opened, ops)
    assert config.tied == repeats
    assert held_bytes(config, matrix_element=2, table_element=4) == ops.bytes


def test_weights_that_do_not_fit_are_refused_with_both_numbers():
    check_weights(1000, 1000, "float32")
    with pytest.raises(OutOfMemoryError, match=r"1001 bytes .*float32.* 1000 are free.*float16.*smaller"):
        check_weights(1001, 1000, "float32")


def test_weights_are_refused_before_they_are_bound(tmp_path, monkeypatch):
    model = make_small(tmp_path)
    monkeypatch.setattr("agentlm.runtime.memory.available", lambda: 1_000_000)
    monkeypatch.setattr(Decoder, "bind", lambda *_: pytest.fail("bound all the same"))
    with pytest.raises(OutOfMemoryError, match=r"in float32, and 1000000 are free"):
        LLM(model, dtype="float32", threads=1, progress=False)


def test_weights_that_cannot_fit_are_refused_before_they_are_scanned(tmp_path, monkeypatch):
    model = make_small(tmp_path)
    monkeypatch.setattr("agentlm.runtime.memory.available", lambda: 1_000_000)
    monkeypatch.setattr("agentlm.runtime.cpu.storage_dtype", lambda _: pytest.fail("scanned all the same"))
    with pytest.raises(OutOfMemoryError, match=r"in float16, and 1000000 are free"):
        LLM(model, threads=1, progress=False)


def test_weights_that_fit_in_one_storage_only_are_judged_by_the_one_they_get(tmp_path, monkeypatch):
    model = make_small(tmp_path)
    config = ModelConfig.load(model)
    free = weights_bytes(config, "F32", "float16")
    assert free < weights_bytes(config, "F32", "float32")
    monkeypatch.setattr("agentlm.runtime.memory.available", lambda: free)
    monkeypatch.setattr("agentlm.runtime.cpu.storage_dtype", lambda _: "float32")
    with pytest.raises(OutOfMemoryError, match=rf"in float32, and {free} are free"):
        LLM(model, threads=1, progress=False)


def test_the_pool_takes_a_share_of_the_free_memory():
    plan = plan_kv_cache(BYTES, 10**6, 256, None, None, free=1_000_000)
    assert plan.bytes == plan.num_blocks * BYTES <= 500_000
    assert plan.max_total_tokens == plan.num_blocks * BLOCK_SIZE


def test_the_pool_is_no_larger_than_every_row_can_fill():
    plan = plan_kv_cache(BYTES, 100, 3, None, None, free=10**12)
    assert plan.num_blocks == 3 * 7
    assert plan.max_total_tokens == 100


def test_a_given_size_is_taken():
    assert plan_kv_cache(BYTES, 10**6, 256, 77_000, None, free=10).num_blocks == 77


def test_a_longest_request_that_was_asked_for_must_fit():
    assert plan_kv_cache(BYTES, 10**4, 256, 10 * BYTES, 160, free=0).max_total_tokens == 160
    with pytest.raises(OutOfMemoryError, match="160") as caught:
        plan_kv_cache(BYTES, 10**4, 256, 10 * BYTES, 161, free=0)
    assert str(11 * BYTES) in str(caught.value)


def test_a_longest_request_beyond_the_context_is_refused():
    with pytest.raises(ConfigError, match="1000"):
        plan_kv_cache(BYTES, 1000, 256, None, 1001, free=10**9)


def test_memory_for_not_even_one_request_is_refused():
    with pytest.raises(
        OutOfMemoryError, match=f"fewer than one request needs: give at least {2 * BYTES} bytes"
    ):
        plan_kv_cache(BYTES, 1000, 256, None, None, free=2 * BYTES)
    with pytest.raises(OutOfMemoryError, match=f"at least {BYTES} bytes"):
        plan_kv_cache(BYTES, 10, 256, 5, None, free=0)
    assert plan_kv_cache(BYTES, 10, 256, BYTES, None, free=0).max_total_tokens == 10
    assert plan_kv_cache(BYTES, 1000, 256, 2 * BYTES, None, free=0).max_total_tokens == 2 * BLOCK_SIZE
