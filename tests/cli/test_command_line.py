"""The command line as a whole: its help, how a command is added, what it needs."""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import eventbus_mp
from eventbus_mp import EventBus, cli
from tests.cli.shell import environment, run

REFERENCE = Path(__file__).parent.parent.parent / "docs" / "reference" / "command-line.md"


def commands_of(parser: argparse.ArgumentParser, *before: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """What can be typed behind `eventbus-mp`, and what its arguments are."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, inner in (choice for group in groups for choice in group.choices.items()):
        yield from commands_of(inner, *before, name)
    if not groups:
        yield " ".join(before), parser


COMMANDS = dict(commands_of(cli._parser()))


def test_the_version(run_dir: Path) -> None:
    done = run(run_dir, "--version")
    assert (done.returncode, done.stdout) == (0, f"eventbus-mp {eventbus_mp.__version__}\n")


def test_help_names_every_command(run_dir: Path) -> None:
    done = run(run_dir, "--help")
    assert done.returncode == 0
    for command in {name.partition(" ")[0] for name in COMMANDS}:
        assert re.search(rf"\n    {command}\s", done.stdout)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_reference_names_every_command_and_its_options(command: str) -> None:
    [introduction, *sections] = REFERENCE.read_text().split("\n## ")
    found = [section for section in sections if re.match(f"`eventbus-mp {command}[ `]", section)]
    assert len(found) == 1, f"give {command} a section in docs/reference/command-line.md"
    [shared] = [section for section in sections if section.startswith("What all commands share")]
    options = {text for action in COMMANDS[command]._actions for text in action.option_strings} - {"-h", "--help"}
    named = set(re.findall(r"--?[a-z][a-z-]*", introduction + shared + found[0]))
    assert options - named == set(), "say in its section what they do"


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"completion"}))
def test_every_command_prints_json(command: str, run_dir: Path) -> None:
    assert "--json" in run(run_dir, *command.split(), "--help").stdout


GREET = """
def add_parser(commands):
    parser = commands.add_parser("greet", help="greet somebody")
    parser.add_argument("name")
    return parser


def run(options):
    print("good day,", options.name)
    return 3
"""


def test_a_command_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "greet.py").write_text(GREET)
    (tmp_path / "_helper.py").write_text("raise AssertionError('this is not a command')")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(tmp_path)])
    try:
        assert cli.main(["greet", "Ada"]) == 3
    finally:
        sys.modules.pop("eventbus_mp.cli.greet", None)
    assert capsys.readouterr().out == "good day, Ada\n"


IMPORTED = "import sys; from eventbus_mp.cli import main\n"
IMPORTED += "try: main(sys.argv[1:])\nfinally: print(*sys.modules, file=sys.stderr)"


@pytest.mark.parametrize("arguments", [("--version",), ("status",), ("journal", "--help")])
def test_a_command_imports_what_it_needs_itself(arguments: tuple[str, ...], run_dir: Path) -> None:
    """The modules of all commands are imported to make the parser, and shell completion waits for that as well."""
    command = [sys.executable, "-c", IMPORTED, *arguments]
    done = subprocess.run(command, env=environment(run_dir), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    imported = done.stderr.split()
    assert "eventbus_mp.cli._journal.run" in imported
    assert [name for name in imported if name.startswith("eventbus_mp.addons")] == []
    assert not {name.partition(".")[0] for name in imported} & {
        "argcomplete",
        "dill",
        "multiprocess",
        "rich",
        "sqlite3",
        "textual",
    }


@pytest.mark.parametrize(
    ("package", "extra", "arguments"),
    [
        ("rich", "cli", ["status", "test"]),
        ("argcomplete", "cli", ["completion", "bash"]),
    ],
)
def test_a_package_that_is_missing_is_named(
    package: str, extra: str, arguments: list[str], bus: EventBus, run_dir: Path
) -> None:
    bus.topics()
    code = (
        f"import sys; sys.modules[{package!r}] = None; from eventbus_mp.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment(run_dir), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("eventbus-mp: ")
    assert (
        f" needs the package {package}, which is not installed; type: pip install 'eventbus-mp[{extra}]'" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_an_unknown_command_is_explained(run_dir: Path) -> None:
    done = run(run_dir, "dance")
    assert done.returncode == 2
    assert "invalid choice" in done.stderr
