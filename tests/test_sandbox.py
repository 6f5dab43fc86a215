"""Programs that attack are contained, score 0 and leave the host unharmed, behind all kinds of walls."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from corp_ray.tasks import sandbox as package
from corp_ray.tasks.sandbox import Limits, ProgramTests, Sandbox, SandboxError
from corp_ray.tasks.sandbox.probe import described

SMALL = Limits(cpu_s=1, wall_s=60, memory_bytes=512 << 20)
HASTY = Limits(cpu_s=1, wall_s=3, memory_bytes=512 << 20)
WALLS = {
    "as this machine allows": (),
    "without namespaces": ("namespaces",),
    "without filters": ("seccomp",),
    "limits alone": ("namespaces", "landlock", "seccomp"),
}
SQUARE = ProgramTests(("assert f(2) == 4", "assert f(3) == 9"), ("f",))
HONEST = "def f(x): return x * x"


@pytest.fixture(scope="module", params=WALLS)
def walls(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "limits alone":
            # Root's own Python may be out of nobody's sight; these programs load nothing from it.
            patch.setattr(package, "_TRIVIAL_PROGRAM", "def one(): return 1")
        made = Sandbox(SMALL, WALLS[request.param])
        try:
            if not made.run(HONEST, SQUARE).passed:
                pytest.fail("an honest program fails")
        except SandboxError as error:
            made.close()
            pytest.skip(f"{request.param}: {error}")
        yield made
        made.close()


def needs(walls, *layers):
    if not set(layers) - walls.without:
        pytest.skip(f"behind walls without {' and '.join(layers)} this is open, as documented")


def processes():
    """Process ids of all sandbox servers of this source tree and what they forked."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"corp_ray.tasks.sandbox.server" in line and str(package._ROOT).encode() in line:
            found.add(int(folder.name))
    return found


def left_over(before):
    deadline = time.monotonic() + 20
    while (left := processes() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


ATTACKS = {
    "ends its process": "import os\ndef f(x): os._exit(0)",
    "ends before the tests": "import os\nos._exit(0)",
    "raises SystemExit": "import sys\ndef f(x): sys.exit(0)",
    "raises KeyboardInterrupt": "def f(x): raise KeyboardInterrupt",
    "equals everything": """
class Equal:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 4
    def __bool__(self): return True
    def __len__(self): return 4
def f(x): return Equal()
""",
    "is a number that equals everything": """
class Equal(int):
    def __eq__(self, other): return True
    def __hash__(self): return 4
def f(x): return Equal(5)
""",
    "is a list that equals everything": """
class Equal(list):
    def __eq__(self, other): return True
def f(x): return Equal([1])
""",
    "patches assert": """
import builtins
class Quiet(Exception): pass
builtins.AssertionError = Quiet
AssertionError = Quiet
builtins.__build_class__ = None
def f(x): return 0
""",
    "patches built-ins": """
import builtins
builtins.compile = builtins.exec = builtins.isinstance = lambda *a: True
def f(x): return 0
""",
    "patches the tester": """
import sys
for name, module in list(sys.modules.items()):
    if "sandbox" in name:
        for key in list(vars(module)):
            if key in ("_judge", "encode", "decode", "FAILED", "_verdict"):
                setattr(module, key, "passed" if key == "FAILED" else lambda *a: ("passed", ""))
def f(x): return 0
""",
    "traces": """
import sys
sys.settrace(lambda *a: None)
sys.setprofile(lambda *a: None)
def f(x): return 0
""",
    "walks frames": """
import sys, json, struct, socket
def f(x):
    frame, seen = sys._getframe(), []
    while frame:
        seen += list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    words = [v for v in seen if isinstance(v, str)] + ["0" * 32]
    for channel in [v for v in seen if isinstance(v, socket.socket)]:
        for word in words:
            line = json.dumps([word, "passed", ""]).encode()
            channel.sendall(struct.pack("<I", len(line)) + line)
    return 0
""",
    "searches all objects": """
import gc, json, struct, socket
def f(x):
    words = {o for o in gc.get_objects() if isinstance(o, str) and len(o) == 32} | {"0" * 32}
    for channel in [o for o in gc.get_objects() if isinstance(o, socket.socket)]:
        for word in words:
            line = json.dumps([word, "passed", ""]).encode()
            channel.sendall(struct.pack("<I", len(line)) + line)
    return 0
""",
    "writes to every file": """
import json, os, struct
def f(x):
    for verdict in (["0" * 32, "passed", ""], ["v", True, [2]], ["v", None], "passed"):
        line = json.dumps(verdict).encode()
        for number in range(256):
            try:
                os.write(number, struct.pack("<I", len(line)) + line)
            except OSError:
                pass
    os._exit(0)
""",
    "answers ahead": """
import json, os, struct
line = json.dumps(["v", True, [2]]).encode()
for number in range(3, 64):
    try:
        os.write(number, (struct.pack("<I", len(line)) + line) * 50)
    except OSError:
        pass
def f(x): return 0
""",
    "answers at exit and in a thread": """
import atexit, threading, os
atexit.register(lambda: os._exit(0))
threading.Thread(target=lambda: [None for _ in iter(int, 1)], daemon=True).start()
def f(x): return 0
""",
    "sends what is no value": """
import os, struct
def f(x):
    for number in range(3, 64):
        try:
            os.write(number, struct.pack("<I", 20000) + b"[" * 10000 + b"]" * 10000)
        except OSError:
            pass
    return 4
""",
    "recurses": "def f(x): return f(x)",
    "overflows the stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "nests its answer": "def f(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "answers with 100 MB": "def f(x): return 'x' * (100 << 20)",
    "answers without end": "def f(x): return iter(int, 1)",
    "is no Python": "def f(x) return x",
    "holds a zero byte": "def f(x): return 4 \0",
    "allocates 100 GB": "def f(x): return bytearray(100 << 30) and 0",
    "allocates without end": """
def f(x):
    held = []
    while True:
        try:
            held.append(bytearray(1 << 20))
        except MemoryError:
            pass
""",
    "loops": "def f(x):\n    while True: pass",
    "loops in C": "def f(x): return 9 ** 9 ** 9",
    "loops before the tests": """
while True:
    try:
        while True: pass
    except BaseException: pass
""",
    "ignores signals": """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
def f(x):
    while True: pass
""",
    "prints 1 GB": """
import os, sys
def f(x):
    for _ in range(512):
        print("x" * (1 << 20))
        os.write(2, b"x" * (1 << 20))
""",
    "forks without end": """
import os
def f(x):
    while True:
        try:
            os.fork()
        except OSError:
            pass
""",
    "forks, leaves its session and sleeps": """
import os, time
def f(x):
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                while True: time.sleep(1)
    return 0
""",
    "starts threads without end": """
import threading, time
def f(x):
    while True:
        try:
            threading.Thread(target=time.sleep, args=(1000,)).start()
        except RuntimeError:
            pass
""",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_scores_nothing_and_leaves_nothing(walls, attack):
    before, memory = processes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    walls.limits = HASTY if "forks" in attack else SMALL  # many processes have much CPU time
    verdict = walls.run(ATTACKS[attack], SQUARE)
    walls.limits = SMALL
    assert not verdict.passed and verdict.reason
    assert not left_over(before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # KB
    assert walls.run(HONEST, SQUARE).passed


def test_limits_are_those_that_were_set(walls):
    program = """
import os
def memory():
    try:
        return len(bytearray(600 << 20))
    except MemoryError:
        return "refused"
def files():
    try:
        return [os.pipe() for _ in range(64)] and None
    except OSError:
        return "refused"
def loop():
    while True: pass
"""
    for name in ("memory", "files"):
        assert walls.run(program, ProgramTests((f"assert {name}() == 'refused'",), (name,))).passed
    verdict = walls.run(program, ProgramTests(("loop()",), ("loop",)))
    assert "the program ended (after " in verdict.reason and "of CPU time" in verdict.reason


def test_sleep_ends_at_the_wall_limit(walls):
    walls.limits = HASTY
    try:
        start = time.monotonic()
        verdict = walls.run("import time\ndef f(x): time.sleep(1000)", SQUARE)
        assert "not done after 3 s" in verdict.reason
        assert time.monotonic() - start < 20
    finally:
        walls.limits = SMALL


def test_files_of_the_host_cannot_be_read(walls, tmp_path):
    needs(walls, "namespaces", "landlock")
    mine = tmp_path / "run" / "rewards.txt"
    mine.parent.mkdir()
    mine.write_text("secret")
    for folder in (*mine.parents, mine):
        if tmp_path.parent in (folder, *folder.parents):
            os.chmod(folder, 0o755)
    program = "def f(path): return open(path).read()"
    for path in ("/etc/passwd", str(mine), "/proc/self/environ", f"/proc/{os.getpid()}/environ"):
        there = ProgramTests((f"assert len(f({path!r})) > 0",), ("f",))
        assert not walls.run(program, there).passed, path
    listing = "import os\ndef f(path): return os.listdir(path)"
    for path in (str(mine.parent), os.getcwd(), "/etc", "/tmp"):
        assert not walls.run(
            listing, ProgramTests((f"assert len(f({path!r})) > 0",), ("f",))
        ).passed, path


def test_nothing_can_be_written_outside(walls, tmp_path):
    needs(walls, "namespaces", "landlock")
    tmp_path.chmod(0o777)
    program = f"""
import os
def f(x):
    for path in ({str(tmp_path / "a")!r}, "/tmp/corp-sandbox-was-here", "/a", "/usr/lib/a", "/dev/shm/a"):
        try:
            open(path, "w").write("here")
        except OSError:
            continue
        return path
    return x * x
"""
    assert walls.run(program, SQUARE).passed
    assert not list(tmp_path.iterdir()) and not Path("/tmp/corp-sandbox-was-here").exists()


def test_no_socket_reaches_the_host(walls):
    needs(walls, "namespaces", "seccomp")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        program = f"""
import socket
def f(x):
    with socket.socket() as out:
        out.connect(("127.0.0.1", {listener.getsockname()[1]}))
        out.sendall(b"here")
    return x * x
"""
        verdict = walls.run(program, SQUARE)
        assert not verdict.passed and ("Errno" in verdict.reason or "Error" in verdict.reason)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_nobody_else_can_be_killed(walls):
    needs(walls, "namespaces", "seccomp")  # without either, a user's program may signal that user
    server = walls._server.process
    program = f"""
import os, signal
def f(x):
    for kill, number in ((os.kill, os.getppid()), (os.kill, {os.getpid()}), (os.kill, {server.pid}),
                         (os.kill, -1), (os.killpg, 0), (os.killpg, {os.getpgid(0)})):
        try:
            kill(number, signal.SIGKILL)
        except OSError:
            pass
    return 0
"""
    assert not walls.run(program, SQUARE).passed
    assert walls._server.process is server and server.poll() is None
    assert walls.run(HONEST, SQUARE).passed


def test_a_program_finds_no_environment_and_an_empty_folder_that_is_its_own(walls):
    os.environ["CORP_SECRET"] = "secret"
    try:
        program = "import os\ndef f(): return dict(os.environ), os.listdir('.')"
        assert walls.run(program, ProgramTests(("assert f() == ({}, [])",), ("f",))).passed
    finally:
        del os.environ["CORP_SECRET"]
    if "namespaces" not in walls.without:
        leaves = "def f():\n    open('left', 'w').write('x')\n    return open('left').read()"
        assert walls.run(leaves, ProgramTests(("assert f() == 'x'",), ("f",))).passed
    assert walls.run(program, ProgramTests(("assert f() == ({}, [])",), ("f",))).passed


def test_a_full_folder_is_the_programs_own_problem(walls):
    program = """
def f(x):
    written = 0
    try:
        for number in range(100):
            with open(f"part{number}", "wb") as file:
                for _ in range(100):
                    written += file.write(bytes(1 << 20))
    except OSError:
        pass
    return written <= (16 << 20)
"""
    assert walls.run(program, ProgramTests(("assert f(0) is True",), ("f",))).passed


def test_random_numbers_and_sets_come_alike_every_time(walls):
    program = "import random\ndef f(): return random.random(), list({'a', 'b', 'c', 'd', 'e', 'f'})"
    seen = walls.run(program, ProgramTests(("raise ValueError(f())",), ("f",))).reason
    other = Sandbox(SMALL, walls.without)
    try:
        assert "ValueError" in seen
        assert other.run(program, ProgramTests(("raise ValueError(f())",), ("f",))).reason == seen
    finally:
        other.close()


def test_a_lost_server_is_an_error_once_and_never_a_zero(walls):
    folder = walls._server._folder
    walls._server.process.kill()
    walls._server.process.wait()
    with pytest.raises(SandboxError):
        walls.run(HONEST, SQUARE)
    assert walls.run(HONEST, SQUARE).passed
    assert not folder or not Path(folder).exists()


def test_a_killed_host_leaves_no_process():
    before = processes()
    script = (
        "from corp_ray.tasks.sandbox import ProgramTests, Sandbox\n"
        "Sandbox().run('import time\\ndef f(): time.sleep(1000)', ProgramTests(('f()',), ('f',)))"
    )
    host = subprocess.Popen([sys.executable, "-c", script])
    deadline, seen = time.monotonic() + 60, 0
    while seen < 5 and time.monotonic() < deadline:
        time.sleep(0.1)  # a server, two keepers, two boxes, for half a second
        seen = seen + 1 if len(processes() - before) >= 5 else 0
    assert seen == 5
    host.kill()
    host.wait()
    assert not left_over(before)


def test_closing_leaves_no_process():
    before = processes()
    made = Sandbox(SMALL)
    made.run(HONEST, SQUARE)
    assert processes() - before
    made.close()
    assert not left_over(before)


def test_what_is_open_is_found_by_trying():
    closed, bare = Sandbox(SMALL), Sandbox(SMALL, ("namespaces", "landlock"))
    try:
        line, opened = described(closed)
        assert line.startswith("sandbox: ") and opened == ()
    finally:
        closed.close()
    try:
        line, opened = described(bare)
    except SandboxError as error:
        line, opened = str(error), ("reading files",)  # root, and nothing that bounds it: no start
    finally:
        bare.close()
    assert "reading files" in opened and ("reading files" in line or "root" in line)
