"""What a worker gets of its program, whatever way that was started: names, state, types, and what can be pickled."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from eventbus_mp import EventBus

PROGRAM = """
import enum, functools, os, pickle, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from eventbus_mp import Event, EventBus, WorkerPool, register_type

class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"
    CRIMSON = "red"

    def label(self):
        return self.name.lower()

    @property
    def other(self):
        return Colour.GREEN if self is Colour.RED else Colour.RED

    @classmethod
    def _missing_(cls, value):
        return cls.GREEN

class Access(enum.Flag):
    READ = 1
    WRITE = 2

@register_type
class Kind(enum.Enum):  # no function names it: it is in the data only
    SMALL = 1

class Base:
    def greet(self):
        return "base"

class Job(Base):
    made = []

    def greet(self):
        return "job of " + super().greet()

    @classmethod
    def make(cls):
        cls.made.append(cls())
        return cls.made[-1]

    def process(self, shadow):
        bus.mark_as_completed(self, shadow)
        tell("listener", type(self) is Job)

@dataclass(frozen=True)
class Point:
    x: int
    y: int = 5

MISSING = object()
STATE = {}
COUNT = 0
LIMIT = None

def pick(value=MISSING):
    return value is MISSING

@functools.lru_cache
def doubled(number):
    return 2 * number

def even(number):
    return number == 0 or odd(number - 1)

def odd(number):
    return number != 0 and even(number - 1)

bus = EventBus("test", topics=["a", "b"], run_dir=os.environ["RUN_DIR"])

def prepare():
    global COUNT
    COUNT = 10
    STATE["prepared"] = True

class Tells(list):
    def clear(self):
        tell("finalizer", [self is TELLS, len(self)])

TELLS = Tells()
pool = WorkerPool(bus, 1, start_method=os.environ["START_METHOD"], initializer=prepare, finalizer=TELLS.clear)

def tell(what, value):
    bus.notify(Event(what, "b", [what, value]))

@pool.on("a", name="named")
def named(event):
    global COUNT
    COUNT += 1
    TELLS.append(COUNT)
    tell("count", COUNT)
    tell("state", [STATE, LIMIT, pick(), pick(MISSING)])
    main = sys.modules[Job.__module__]
    tell("same", [main.Job is Job, main.Colour is Colour, main.STATE is STATE, main.named is named])
    tell("enum", [Colour("red").label(), Colour.CRIMSON.other.name, Colour("?").name, str(Access.READ | Access.WRITE)])
    tell("functions", [doubled(4), even(7), odd(7), Job().greet(), Job.make() in Job.made, Point(1).y])
    copies = [pickle.loads(pickle.dumps(value)) for value in (Job(), Job, Colour.RED, Access.READ, named, Point(3))]
    same = [type(copies[0]) is Job, copies[1] is Job, copies[2] is Colour.RED, copies[4] is named]
    tell("pickled", [*same, copies[5].x])
    tell("data", [repr(event.data), type(event.data).__name__])
    with ThreadPoolExecutor(1) as executor:
        tell("executor", executor.submit(even, 4).result())

pool.on("a", name="lambda")(lambda event: tell("lambda", [STATE, even(3), Job().greet()]))
pool.subscribe(Job(), ["a"])

def make():
    own = []

    def factorial(number):
        own.append(number)
        return 1 if number < 2 else number * factorial(number - 1)

    class Local:
        def value(self):
            return even(2)

    @pool.on("a", name="closure")
    def closure(event):
        tell("closure", [factorial(4), len(own), Local().value()])

make()

if __name__ == "__main__":
    class Guarded:
        def greet(self):
            return "guarded " + Job().greet()

    @register_type
    class Late(enum.Enum):
        NOW = 1

    @pool.on("a", name="guarded")
    def guarded(event):
        value = pickle.loads(pickle.dumps(Guarded()))
        tell("guarded", [value.greet(), doubled(5), LIMIT])

    LIMIT = 3
    STATE["loaded"] = "before the start"
    inbox = bus.inbox("out", ["b"], credit=100)
    with pool:
        bus.notify(Event("1", "a", Kind.SMALL))
        bus.drain("a", timeout_s=60)
    for _, event in sorted(inbox.events(100, 20), key=lambda item: item[1].id):
        print(*event.data)
    for item in bus.statistics().subscribers:
        if item.recent_skips:
            print(item.name, item.recent_skips)
    bus.shutdown()
"""

# As ipykernel runs the cells of a notebook: in a module without a file, and each has lines that can be looked up.
KERNEL = """
import linecache, sys, types
main = sys.modules["__main__"] = types.ModuleType("__main__")
with open(sys.argv[1]) as file:
    first, second = file.read().split("\\nbus = ")
second, third = second.split("\\nif __name__")
for number, cell in enumerate([first, "bus = " + second, "if __name__" + third]):
    name = f"<cell {number}>"
    linecache.cache[name] = len(cell), None, cell.splitlines(keepends=True), name
    exec(compile(cell, name, "exec"), vars(main))
"""

EXPECTED = """\
closure [24, 4, True]
count 11
data ['<Kind.SMALL: 1>', 'Kind']
enum ['red', 'GREEN', 'GREEN', 'Access.READ|WRITE']
executor True
finalizer [True, 1]
functions [8, False, True, 'job of base', True, 5]
guarded ['guarded job of base', 10, 3]
lambda [{'loaded': 'before the start', 'prepared': True}, False, 'job of base']
listener True
pickled [True, True, True, True, 3]
same [True, True, True, True]
state [{'loaded': 'before the start', 'prepared': True}, 3, True, True]
"""


def command(way: str, folder: Path) -> tuple[list[str], str | None]:
    """How to start the program that way, and what to give it on its standard input."""
    script = folder / "program.py"
    script.write_text(PROGRAM)
    if way == "notebook":
        (folder / "kernel.py").write_text(KERNEL)
        return [str(folder / "kernel.py"), str(script)], None
    if way == "script":
        return [str(script)], None
    if way == "module":
        return ["-m", "program"], None
    if way == "-c":
        return ["-c", PROGRAM], None
    if way == "stdin":
        return ["-"], PROGRAM
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROGRAM)
    if way == "package":
        return ["-m", "package"], None
    if way == "directory":
        return [str(package)], None
    with zipfile.ZipFile(folder / "program.zip", "w") as archive:
        archive.write(package / "__main__.py", "__main__.py")
    return [str(folder / "program.zip")], None


WAYS = ["script", "module", "package", "directory", "zip", "-c", "stdin", "notebook"]


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
@pytest.mark.parametrize("way", WAYS)
def test_a_worker_has_the_program_that_its_pool_has(
    run_dir: Path, bus: EventBus, tmp_path: Path, way: str, start_method: str
) -> None:
    arguments, text = command(way, tmp_path)
    variables = {**os.environ, "RUN_DIR": str(run_dir), "START_METHOD": start_method}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        input=text,
        env=variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    # How a Flag is shown depends on the version of CPython.
    assert done.stdout.replace("Access.WRITE|READ", "Access.READ|WRITE") == EXPECTED, done.stderr
