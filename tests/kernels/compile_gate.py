"""Compiles every kernel through its production launcher, for GPUs that are not here, and weighs what comes out.

    python tests/kernels/compile_gate.py                              all cases, sm_90: a table, and what is wrong
    python tests/kernels/compile_gate.py --only decode --dump ptx     what one became (ttir, ttgir, llir, ptx, sass, amdgcn)
    python tests/kernels/compile_gate.py --target all --record        new numbers into resources.json

Launchers are called with tensors on the meta device; in place of a launch, the kernel is compiled with the types,
alignments and constants of that call, and its registers, spills, shared memory and instructions are counted. Growth
against `resources.json` (by Triton's version and target) is an error; so are spills that are not recorded, more shared
memory than the target has, and the lack of an instruction that a case asks for. Refuses to know results and speed.

It needs a process of its own: in one that interprets kernels, nothing is compiled.
"""

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("resources.json")
CACHE = Path("~/.cache/agentlm/triton").expanduser()

MORE_REGISTERS = 8
MORE_SHARED = 1.1
"""What may be more than recorded: between compilers of one version, numbers vary by a little."""
RECORDED = ("registers", "spills", "shared")


@dataclass(frozen=True)
class Target:
    """A GPU to compile for."""

    backend: str
    arch: int | str
    warp: int
    shared: int
    """Bytes of shared memory that a block can have."""
    gpu: str
    """Whose table in `agentlm_kernels/tuned` is used, if there is one."""


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * 1024, "NVIDIA-A100-SXM4-80GB"),
    "sm_90": Target("cuda", 90, 32, 227 * 1024, "NVIDIA-H200"),
    "sm_100": Target("cuda", 100, 32, 227 * 1024, "NVIDIA-B200"),
    "gfx942": Target("hip", "gfx942", 64, 64 * 1024, "AMD-Instinct-MI300X"),
}
INSTRUCTIONS = {
    "wgmma": r"\bwgmma\.mma_async",
    "mma": r"\bmma\.sync|\bv_mfma",
    "tcgen05": r"\btcgen05\.mma",
    "async16": r"\bcp\.async\.c[ag]\.shared\.global\S* .*, (?:0x10|16),|\bcp\.async\.bulk",
    "load16": r"\bld\.global\S*\.v(?:4\.[bfsu]32|8\.[bfsu]32|2\.[bfsu]64|4\.[bfsu]64)|\b(?:global|buffer)_load_dwordx4",
    "store16": r"\bst\.global\S*\.v(?:4\.[bfsu]32|8\.[bfsu]32|2\.[bfsu]64)|\b(?:global|buffer)_store_dwordx4",
    "store": r"\bst\.global|\batom\.|\bred\.|\b(?:global|buffer|flat)_(?:store|atomic)",
    "handover": (
        r"\bbar\.sync(?:(?!\bst\.global)[\s\S])*?"
        r"\batom\.global\.gpu\.acq_rel(?![\s\S]*\bld\.global\.(?!cg))[\s\S]*\bld\.global\.cg"
    ),
}
"""Instructions by name, as they look in PTX and in AMD's assembly.

A handover is what one program leaves for another: a barrier behind its last store, a counter that orders memory, and
behind that no load that the first-level cache could answer with what was there before.
"""


@dataclass
class Kernel:
    """A compiled kernel: what it takes, and what it is made of."""

    name: str
    warps: int
    stages: int
    grid: tuple[int, ...]
    registers: int
    spills: int
    """Bytes of stack of a thread."""
    shared: int
    blocks: int
    """That one multiprocessor holds at a time (0: unknown)."""
    counts: dict[str, int]
    seconds: float
    text: str = ""
    """What `--dump` asked for."""


@dataclass
class Outcome:
    """What became of one case for one target."""

    case: str
    target: str
    kernels: list[Kernel] = field(default_factory=list)
    error: str = ""


class FakeDriver:
    """Says that a GPU is there, and can do nothing else. Each target is a device of its own, with its own cache."""

    def __init__(self) -> None:
        self.target = "sm_90"

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        target = TARGETS[self.target]
        return GPUTarget(target.backend, target.arch, target.warp)

    def get_current_device(self) -> int:
        return list(TARGETS).index(self.target)

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(target: str, into: list[tuple[Any, tuple[int, ...], float]]) -> Iterator[None]:
    """Inside, a launch compiles for `target` and appends the compiled kernel, its grid and the seconds it took."""
    import triton
    from triton.runtime.jit import JITFunction

    import agentlm_kernels.tuning

    driver = FakeDriver()
    driver.target = target
    triton.runtime.driver.set_active(driver)
    run, gpu_name = JITFunction.run, agentlm_kernels.tuning._gpu_name

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        start = time.perf_counter()
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        into.append((kernel, tuple(grid), time.perf_counter() - start))
        return kernel

    JITFunction.run = compile_only
    agentlm_kernels.tuning._gpu_name = lambda: TARGETS[target].gpu
    try:
        yield
    finally:
        JITFunction.run = run
        agentlm_kernels.tuning._gpu_name = gpu_name


def weigh(compiled: Any, grid: tuple[int, ...], seconds: float, target: str, dump: str | None) -> Kernel:
    """Counts what a compiled kernel takes."""
    metadata, asm = compiled.metadata, compiled.asm
    if TARGETS[target].backend == "cuda":
        text = asm["ptx"]
        registers, spills, shared = _usage(asm["cubin"])
        shared = max(shared, metadata.shared)
    else:
        text = asm["amdgcn"]
        registers = _directive(text, "vgpr_count")
        spills = 4 * (_directive(text, "vgpr_spill_count") + _directive(text, "sgpr_spill_count"))
        shared = metadata.shared
    return Kernel(
        name=metadata.name,
        warps=metadata.num_warps,
        stages=metadata.num_stages,
        grid=grid,
        registers=registers,
        spills=spills,
        shared=shared,
        blocks=_blocks(TARGETS[target], registers, shared, metadata.num_warps),
        counts={name: len(re.findall(pattern, text)) for name, pattern in INSTRUCTIONS.items()},
        seconds=seconds,
        text="" if dump is None else _sass(asm["cubin"]) if dump == "sass" else str(asm[dump]),
    )


def _tool(name: str, cubin: bytes, *options: str) -> str:
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
        return subprocess.run([path, *options, file.name], check=True, capture_output=True, text=True).stdout


def _sass(cubin: bytes) -> str:
    return _tool("nvdisasm", cubin, "-c")


def _usage(cubin: bytes) -> tuple[int, int, int]:
    """Registers and bytes of stack of a thread, bytes of static shared memory of a block."""
    text = _tool("cuobjdump", cubin, "--dump-resource-usage")
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", text)}
    return found["REG"], found["STACK"], found["SHARED"]


def _directive(assembly: str, name: str) -> int:
    return max((int(n) for n in re.findall(rf"\.{name}:\s+(\d+)", assembly)), default=0)


def _blocks(target: Target, registers: int, shared: int, warps: int) -> int:
    if target.backend != "cuda":
        return 0
    # Registers are given to warps in units of 256; a multiprocessor has 64 Ki of them, 64 warps, and 1 KiB of shared
    # memory more than a block may have, of which each block takes 1 KiB for itself.
    by_registers = 65536 // (-(-max(registers, 1) * 32 // 256) * 256) // warps
    return min(by_registers, 64 // warps, (target.shared + 1024) // (shared + 1024), 32)


def compile_case(name: str, target: str, dump: str | None = None) -> Outcome:
    """Compiles one case; errors are in the outcome."""
    from tests.kernels.compile_cases import CASES

    outcome = Outcome(name, target)
    found: list[tuple[Any, tuple[int, ...], float]] = []
    try:
        with compiling(target, found):
            CASES[name].run()
        seen: set[str] = set()
        for compiled, grid, seconds in found:
            if compiled.hash in seen:
                continue
            seen.add(compiled.hash)
            kernel = weigh(compiled, grid, seconds, target, dump)
            same = sum(k.name.split("#")[0] == kernel.name for k in outcome.kernels)
            kernel.name += f"#{same + 1}" if same else ""
            outcome.kernels.append(kernel)
        if not found:
            outcome.error = "no kernel was launched"
    except Exception as error:
        frames = "".join(traceback.format_exception(error)[-4:])
        outcome.error = f"{type(error).__name__}: {error}\n{frames}"
    return outcome


def faults(outcome: Outcome, recorded: dict[str, dict[str, int]] | None) -> Iterator[str]:
    """What is wrong with a case, a line each; `recorded` is the table of this target, None if there is none."""
    from tests.kernels.compile_cases import CASES

    where = f"{outcome.case} for {outcome.target}"
    if outcome.error:
        yield f"{where}: does not compile\n{outcome.error}"
    for kernel in outcome.kernels:
        at = f"{where}: {kernel.name}"
        if kernel.shared > TARGETS[outcome.target].shared:
            yield f"{at} takes {kernel.shared} bytes of shared memory, of {TARGETS[outcome.target].shared}"
        if len(kernel.grid) > 1 and max(kernel.grid[1:]) > 65535:
            yield f"{at} is launched as {kernel.grid}: more than 65535 in the second or third dimension"
        if not kernel.counts["store"]:
            yield f"{at} writes nothing: Triton has thrown it away"
        for need in CASES[outcome.case].needs:
            if not _has(kernel, need, outcome.target):
                yield f"{at} has no {need}: {kernel.counts}"
        known = None if recorded is None else recorded.get(f"{outcome.case}:{kernel.name}")
        if recorded is not None and known is None:
            yield f"{at} is not in the table"
        if known is None:
            if kernel.spills:
                yield f"{at} spills {kernel.spills} bytes"
            continue
        if kernel.spills > known["spills"]:
            yield f"{at} spills {kernel.spills} bytes, {known['spills']} before"
        if kernel.registers > known["registers"] + MORE_REGISTERS:
            yield f"{at} takes {kernel.registers} registers, {known['registers']} before"
        if kernel.shared > known["shared"] * MORE_SHARED:
            yield f"{at} takes {kernel.shared} bytes of shared memory, {known['shared']} before"


def _has(kernel: Kernel, need: str, target: str) -> bool:
    counts = kernel.counts
    if need == "matrix":
        return counts["wgmma"] + counts["mma"] + counts["tcgen05"] > 0
    if need == "wgmma":
        # Other generations have other names for their widest product.
        return counts[{"sm_90": "wgmma", "sm_100": "tcgen05"}.get(target, "mma")] > 0
    if need in ("async16", "handover"):
        return counts[need] > 0 or TARGETS[target].backend != "cuda"
    if need == "load16":
        return counts["load16"] + counts["async16"] > 0
    return counts[need] > 0


def read_table() -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """Triton's version → target → `case:kernel` → numbers."""
    return json.loads(TABLE.read_text()) if TABLE.exists() else {}


def write_table(table: dict[str, dict[str, dict[str, dict[str, int]]]]) -> None:
    """One line a kernel, so that a change shows what changed."""
    lines = []
    for version, targets in sorted(table.items()):
        blocks = []
        for target, kernels in sorted(targets.items()):
            rows = ",\n".join(f"      {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(kernels.items()))
            blocks.append(f"    {json.dumps(target)}: {{\n{rows}\n    }}")
        lines.append(f"  {json.dumps(version)}: {{\n" + ",\n".join(blocks) + "\n  }")
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def show(outcomes: list[Outcome]) -> None:
    """The table for people."""
    width = max((len(f"{o.case}:{k.name}") for o in outcomes for k in o.kernels), default=10)
    print(
        f"{'case:kernel':{width}}  target  warps stages  regs spill shared blocks/SM"
        f"  wgmma   mma tcgen05 async16 load16 store16  seconds"
    )
    for outcome in outcomes:
        for k in outcome.kernels:
            c = k.counts
            print(
                f"{outcome.case + ':' + k.name:{width}}  {outcome.target:7} {k.warps:4} {k.stages:6} {k.registers:5} "
                f"{k.spills:5} {k.shared:6} {k.blocks:9}  {c['wgmma']:5} {c['mma']:5} {c['tcgen05']:7} {c['async16']:7} "
                f"{c['load16']:6} {c['store16']:7} {k.seconds:8.1f}"
            )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", action="append", choices=[*TARGETS, "all"], help="sm_90 if none is given")
    parser.add_argument(
        "--only", metavar="NAME", help="cases whose name has NAME in it, or matches it (* and ?)"
    )
    parser.add_argument("--dump", metavar="FORM", help="print ttir, ttgir, llir, ptx, sass or amdgcn")
    parser.add_argument("--record", action="store_true", help="write the numbers into resources.json")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was seen to FILE")
    return parser.parse_args()


def main() -> int:
    """0 if nothing is wrong."""
    import triton

    from tests.kernels.compile_cases import CASES

    given = arguments()
    targets = given.target or ["sm_90"]
    targets = list(TARGETS) if "all" in targets else targets
    only = given.only or "*"
    names = [name for name in CASES if only in name or fnmatch(name, only)]
    if given.list or not names:
        print(*(names or CASES), sep="\n")
        return 0 if given.list else 1
    jobs = [(name, target) for target in targets for name in names if target not in CASES[name].skip]
    if given.dump or given.processes == 1 or len(jobs) == 1:
        outcomes = [compile_case(name, target, given.dump) for name, target in jobs]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(given.processes, len(jobs)), context) as pool:
            outcomes = list(pool.map(compile_case, *zip(*jobs, strict=True)))
    if given.dump:
        for outcome in outcomes:
            for kernel in outcome.kernels:
                print(f"==== {outcome.case}:{kernel.name} {outcome.target}\n{kernel.text}")
    show(outcomes)
    if given.json:
        seen = {"triton": triton.__version__, "outcomes": [asdict(outcome) for outcome in outcomes]}
        given.json.write_text(json.dumps(seen, indent=1))

    table = read_table()
    version = ".".join(triton.__version__.split(".")[:2])
    if given.record:
        for target in targets:
            kept = table.setdefault(version, {}).setdefault(target, {})
            for name in [
                name for name in kept if name.split(":")[0] in names or name.split(":")[0] not in CASES
            ]:
                del kept[name]
            for outcome in outcomes:
                if outcome.target == target:
                    kept.update(
                        {
                            f"{outcome.case}:{k.name}": {n: getattr(k, n) for n in RECORDED}
                            for k in outcome.kernels
                        }
                    )
        write_table(table)
    wrong: list[str] = []
    for outcome in outcomes:
        found = list(faults(outcome, table.get(version, {}).get(outcome.target)))
        if found and (gap := CASES[outcome.case].gaps.get(outcome.target)):
            print(f"KNOWN  {outcome.case} for {outcome.target}: {gap}")
        else:
            wrong += found
    for target in targets:
        launched = {f"{o.case}:{k.name}" for o in outcomes for k in o.kernels if o.target == target}
        for name in table.get(version, {}).get(target, {}):
            case = name.split(":")[0]
            if name not in launched and (case in names or case not in CASES):
                wrong.append(f"{name} for {target} is in the table, but no case launches it")
        if target not in table.get(version, {}):
            print(
                f"There is no table for Triton {version} and {target}: only spills and limits were checked."
            )
    for line in wrong:
        print(f"WRONG  {line}")
    if wrong:
        print(f"{len(wrong)} faults. Where they are meant: python tests/kernels/compile_gate.py --record")
    return 1 if wrong else 0


def _prepare() -> None:
    """Paths and variables, before triton is imported; in the pool's processes too."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_CACHE_DIR", str(CACHE))
    # The default of Triton until 3.9, which warns that it will change.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    # This file's folder, where Python looks first, has names that others may have too.
    here = str(Path(__file__).parent)
    sys.path[:] = [str(ROOT), str(ROOT / "kernels/src"), *(p for p in sys.path if p != here)]


if __name__ in ("__main__", "__mp_main__"):
    _prepare()
if __name__ == "__main__":
    sys.exit(main())
