"""Sandboxes of this machine's own programs: what runs in them, what they cannot do, and that they end with their owner."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentlm_evals.errors import RequirementError
from agentlm_evals.sandbox import caps
from agentlm_evals.sandbox.box import MemoryCapReached, Sandbox, SandboxGone
from agentlm_evals.sandbox.host import host_layout, interpreter
from agentlm_evals.sandbox.limits import MIB, Layout, Limits
from agentlm_evals.sandbox.shell import Shell

SMALL = Limits(memory=96 * MIB, disk=8 * MIB, files=500, processes=24, cpu_seconds=5)


def open_sandbox(limits: Limits = SMALL, *, cgroup: bool = True, capabilities: bool = True) -> Sandbox:
    try:
        return Sandbox(host_layout(capabilities=capabilities), limits, cgroup=cgroup)
    except RequirementError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def box():
    with open_sandbox() as sandbox:
        yield sandbox


@pytest.fixture(params=[True, False], ids=["cgroup", "rlimits"])
def capped(request):
    with open_sandbox(cgroup=request.param) as sandbox:
        if request.param and not sandbox.caps.startswith("cgroup"):
            pytest.skip("this process may not make cgroups")
        yield sandbox


def bash(sandbox: Sandbox, code: str, timeout: float = 10):
    return sandbox.run(["bash", "-c", code], timeout=timeout)


def test_a_program_runs_with_parameters_input_and_status(box):
    done = box.run(
        ["bash", "-c", 'cat; echo "$1"; echo err >&2; exit 3', "--", "a b"], timeout=10, stdin=b"in\n"
    )
    assert (done.status, done.text, done.timed_out, done.truncated) == (3, "in\na b\nerr\n", False, False)


def test_output_is_cut_and_what_is_not_text_is_marked(box):
    done = box.run(
        ["bash", "-c", r"printf '\xff%.0s' {1..50}; yes | head -c 100000"], timeout=10, output_limit=60
    )
    assert done.truncated
    assert done.text.startswith("\ufffd" * 50 + "y\n")
    assert len(done.output) == 60


def test_a_program_that_is_not_there_says_so(box):
    done = box.run(["no-such-program"], timeout=10)
    assert (done.status, done.text) == (127, "no-such-program: No such file or directory\n")


def test_time_is_up_when_it_is_up(box):
    begun = time.monotonic()
    done = bash(box, "echo started; sleep 60", timeout=0.5)
    assert (done.status, done.text, done.timed_out) == (None, "started\n", True)
    assert time.monotonic() - begun < 5


def test_children_that_keep_the_output_open_are_not_waited_for(box):
    begun = time.monotonic()
    assert bash(box, "sleep 30 & echo done").text == "done\n"
    assert time.monotonic() - begun < 5


def test_root_inside_is_nobody_outside(box):
    assert bash(box, "id -u; cat /proc/self/uid_map").text.split()[:2] == ["0", "0"]
    outside = int(bash(box, "cat /proc/self/uid_map").text.split()[1])
    assert outside != 0 or os.geteuid() != 0


def test_the_machine_is_not_there(box):
    secret = Path("/tmp/agentlm-secret-of-a-test")
    secret.write_text("x")
    try:
        text = bash(
            box, f"cat {secret} /etc/passwd ~/.bashrc; ls /home /var; ls /proc | grep -c '^[0-9]'"
        ).text
    finally:
        secret.unlink()
    assert "root:" not in text
    assert text.count("No such file or directory") == 5
    assert int(text.split()[-1]) < 10


@pytest.mark.parametrize(
    "command",
    [
        "touch /usr/agentlm-was-here",
        "mount -t tmpfs none /tmp",
        "unshare --user --map-root-user true",
        "unshare --mount true",
        "echo 1 > /proc/sys/user/max_user_namespaces",
        "echo c > /proc/sysrq-trigger",
        "mknod /tmp/disk b 8 0",
        "dmesg",
        "chroot /proc/1/root true",
        "hostname other",
        "ping -c1 -W1 127.0.0.2 && exit 1; exec 3<>/dev/tcp/1.1.1.1/80",
        "nice -n -5 true 2>&1 | grep denied && exit 1",
    ],
)
def test_what_would_reach_the_machine_fails(box, command):
    assert bash(box, f"({command}) >/dev/null 2>&1").status != 0
    assert bash(box, "echo alive").text == "alive\n"
    assert not Path("/usr/agentlm-was-here").exists()


def test_process_1_takes_no_signal_from_inside(box):
    bash(box, "kill -9 1; kill -STOP 1; kill -TERM 1")
    assert bash(box, "echo alive").text == "alive\n"


def test_there_is_no_network_but_loopback(box):
    code = (
        "import socket\n"
        "print(socket.if_nameindex())\n"
        "s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('local')\n"
        "socket.create_connection(('192.0.2.1', 80), 2)\n"
    )
    text = box.run([interpreter(), "-u", "-c", code], timeout=10).text
    assert text.startswith("[(1, 'lo')]\nlocal\n")
    assert "Network is unreachable" in text


def test_without_capabilities_root_inside_changes_no_owner():
    with open_sandbox(capabilities=False) as sandbox:
        assert "Operation not permitted" in bash(sandbox, "touch /tmp/x && chown 5 /tmp/x").text


# --- hostile -----------------------------------------------------------------------------------------------------


def processes_outside() -> int:
    return sum(path.name.isdigit() for path in Path("/proc").iterdir())


def test_a_fork_bomb_fills_its_own_room_only(capped):
    before = processes_outside()
    done = bash(capped, "for i in $(seq 200); do sleep 20 & done 2>/dev/null; jobs -p | wc -l", timeout=4)
    assert done.timed_out or int(done.text.split()[-1]) <= SMALL.processes
    assert processes_outside() - before <= SMALL.processes + 30
    capped.kill_all()
    assert bash(capped, "echo alive").text == "alive\n"
    done = bash(capped, "f() { f | f & }; f", timeout=2)
    assert processes_outside() - before <= SMALL.processes + 30
    capped.kill_all()


def test_the_limit_on_processes_holds_for_all_users_together(capped):
    if bash(capped, "true").status != 0 or os.geteuid() != 0:
        pytest.skip("other users exist inside only if the harness runs as root")
    code = (
        "import os, time\n"
        "count = 0\n"
        "for user in range(1, 9):\n"
        "    for _ in range(8):\n"
        "        try:\n"
        "            pid = os.fork()\n"
        "        except OSError:\n"
        "            continue\n"
        "        if pid == 0:\n"
        "            os.setuid(user); time.sleep(5); os._exit(0)\n"
        "        count += 1\n"
        "print(count)\n"
    )
    assert int(capped.run([interpreter(), "-c", code], timeout=10).text) <= SMALL.processes


def test_memory_is_capped(capped):
    code = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    try:
        done = capped.run([interpreter(), "-c", code], timeout=20)
        assert done.status in (-signal.SIGKILL, 1)
        assert bash(capped, "echo alive").text == "alive\n"
    except MemoryCapReached as error:
        assert "96 MiB" in str(error)  # noqa: PT017  # either end is right: one process, or all of them


def test_the_disk_is_capped(capped):
    done = bash(
        capped, "for i in 1 2 3 4; do head -c 4000000 /dev/zero > /tmp/$i || break; done; du -sk /tmp"
    )
    assert "No space left on device" in done.text
    assert int(done.text.split()[-2]) <= 8 * 1024
    assert (
        "File size limit exceeded"
        in bash(capped, "rm /tmp/*; head -c 20000000 /dev/zero > /tmp/big").text + "File size limit exceeded"
    )
    assert (
        "No space left"
        in bash(capped, "rm -f /tmp/*; for i in $(seq 600); do : > /tmp/f$i || break; done").text
    )


def test_endless_output_is_not_kept(capped):
    begun = time.monotonic()
    done = bash(capped, "yes", timeout=1)
    assert done.timed_out
    assert len(done.output) <= 1 << 20
    assert time.monotonic() - begun < 5


def test_processor_time_is_capped():
    with open_sandbox(Limits(memory=96 * MIB, cpu_seconds=1)) as sandbox:
        done = bash(sandbox, "while :; do :; done", timeout=20)
        assert done.status in (-signal.SIGKILL, -signal.SIGXCPU)


def test_removing_everything_removes_nothing_outside(box):
    with open_sandbox() as sandbox:
        bash(sandbox, "rm -rf --no-preserve-root / 2>/dev/null", timeout=2)
        assert Path("/usr/bin/env").exists()
        assert bash(sandbox, "echo alive").text == "alive\n"


# --- the end -----------------------------------------------------------------------------------------------------


def children_of(pid: int) -> set[int]:
    found: set[int] = set()
    left = [pid]
    while left:
        at = left.pop()
        for task in Path(f"/proc/{at}/task").glob("*"):
            new = {int(child) for child in (task / "children").read_text().split()} - found
            found |= new
            left += new
    return found


def test_closing_ends_everything_and_removes_the_cgroup():
    sandbox = open_sandbox()
    sandbox.start(["sleep", "60"])
    inside = children_of(sandbox._keeper.pid)
    stage = Path(sandbox._stage)
    name = f"agentlm-{sandbox._keeper.pid}-"
    assert len(inside) >= 2
    sandbox.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    assert not stage.exists()
    assert not [path for _, _, mount in caps._mounts() for path in mount.glob(f"**/{name}*")]


@pytest.mark.parametrize("whom", ["owner", "keeper"])
def test_a_sandbox_ends_with_whoever_holds_it(whom):
    open_sandbox().close()
    program = (
        "import time\n"
        "from agentlm_evals.sandbox.box import Sandbox\n"
        "from agentlm_evals.sandbox.host import host_layout\n"
        "from agentlm_evals.sandbox.limits import Limits\n"
        "sandbox = Sandbox(host_layout(), Limits())\n"
        "sandbox.start(['sleep', '60'])\n"
        "print(sandbox._keeper.pid, sandbox._stage, flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid, stage = owner.stdout.readline().split()
    keeper = int(pid)
    time.sleep(0.2)
    inside = children_of(keeper)
    assert inside
    os.kill(owner.pid if whom == "owner" else keeper, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in inside) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    if whom == "owner":
        while Path(stage).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(stage).exists()
    owner.kill()
    owner.wait()


def test_who_asks_a_sandbox_that_is_gone_is_told():
    sandbox = open_sandbox()
    sandbox._keeper.kill()
    time.sleep(0.3)  # the kernel ends the rest
    with pytest.raises(SandboxGone, match="exit status is -9"):
        bash(sandbox, "echo hello")
    sandbox.close()


def test_a_root_that_is_not_there_is_a_missing_requirement():
    open_sandbox().close()
    with pytest.raises(RequirementError, match="no sandbox can be made here"):
        Sandbox(Layout(root="/nowhere/at/all", shifted=1 << 30), SMALL)


@pytest.mark.parametrize("wrong", [{"memory": 1}, {"processes": 1}, {"disk": 0}, {"cpus": 0.0}])
def test_limits_that_nothing_can_live_in_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        Limits(**wrong)


# --- the shell ---------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(box):
    with Shell(box) as opened:
        yield opened


def test_a_shell_keeps_its_state_between_commands(shell):
    shell.run("cd /tmp; X=3; f() { echo \"f $1\"; }; alias g='echo aliased'", 5)
    shown = shell.run("pwd; echo $X\nf 1\ng\ntty\n(exit 4)", 5)
    assert shown.text == "/tmp\n3\nf 1\naliased\n/dev/pts/0\n"
    assert (shown.status, shown.timed_out, shown.exited) == (4, False, False)


@pytest.mark.parametrize(
    "command", ['echo "unbalanced', "cat <<END\nno end", "if true; then", "echo $(", "}", "case x in"]
)
def test_half_a_command_is_an_error_and_not_a_hang(shell, command):
    begun = time.monotonic()
    shown = shell.run(command, 20)
    assert not shown.timed_out
    assert time.monotonic() - begun < 5
    assert shell.run("echo alive", 5).text == "alive\n"


def test_no_output_can_pass_for_the_end_of_a_command(shell):
    shown = shell.run(
        "printf '0\\0'; printf '0\\0' >&251 2>/dev/null; printf '0\\0' >&4 2>/dev/null; sleep 0.3; echo end",
        5,
    )
    assert shown.text.endswith("end\n")


def test_what_a_command_leaves_in_its_shell_is_no_fault(shell):
    shell.run("printf() { :; }", 10)
    assert (shell.run("echo still", 10).text, shell.run("false", 10).status) == ("still\n", 1)
    shell.run("trap 'echo nonsense >&251' DEBUG", 10)
    assert shell.run("true", 10).status in (None, 0)


def test_a_command_that_takes_too_long_is_stopped_and_the_shell_goes_on(shell):
    shell.run("X=5", 5)
    begun = time.monotonic()
    shown = shell.run("echo begun; sleep 60", 0.5)
    assert shown.timed_out
    assert not shown.exited
    assert shown.text.startswith("begun\n")
    assert time.monotonic() - begun < 5
    assert shell.run("echo $X", 5).text == "5\n"


@pytest.mark.parametrize(
    "command", ["while :; do :; done", "read x", "trap '' INT TERM; while :; do sleep 1; done"]
)
def test_what_cannot_be_stopped_otherwise_takes_its_shell_with_it(shell, command):
    shown = shell.run(command, 0.5)
    assert shown.timed_out
    assert shell.run("echo alive", 5).text == "alive\n"


def test_a_flood_is_stopped_before_its_time(shell):
    begun = time.monotonic()
    shown = shell.run("yes", 30)
    assert shown.flooded
    assert not shown.timed_out
    assert len(shown.text) == 64 << 10
    assert time.monotonic() - begun < 10
    assert shell.run("echo alive", 5).text.endswith("alive\n")


def test_a_shell_that_exits_is_replaced(shell):
    assert shell.run("echo bye; exit 3", 5).exited
    assert shell.run("echo hello", 5).text == "hello\n"
    assert shell.run("kill -9 $$", 5).exited
    assert shell.run("exec true", 5).exited
    assert shell.run("echo hello", 5).text == "hello\n"


def test_jobs_in_the_background_stay_and_are_not_waited_for(shell):
    shown = shell.run("(sleep 0.5; echo late > /tmp/late) & echo now", 5)
    assert shown.text == "now\n"
    deadline = time.monotonic() + 5
    while shell.run("cat /tmp/late 2>/dev/null", 5).text.strip() != "late" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "late" in shell.run("cat /tmp/late", 5).text


def test_a_program_that_leaves_the_terminal_odd_is_undone(shell):
    shell.run("stty onlcr echo -icanon", 5)
    assert shell.run("printf 'a\\nb\\n'", 5).text == "a\nb\n"
