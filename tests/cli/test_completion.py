"""What the tab key offers: commands, options, and the names of running buses and their topics."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eventbus_mp import EventBus
from tests.cli.shell import environment, run

pytest.importorskip("argcomplete")


def completed(run_dir: Path, line: str) -> list[str]:
    """The words for the end of this line, as a shell asks for them."""
    reading, writing = os.pipe()
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    # The shell's function gives the words on descriptor 8.
    code = f"import os; os.dup2({writing}, 8); import sys; sys.argv[0] = 'eventbus-mp'; "
    code += "from eventbus_mp.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment(run_dir), **asked},
        pass_fds=[writing],
        capture_output=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    with open(reading) as words:
        assert done.stderr == b""
        return words.read().split("\n")


def test_words(bus: EventBus, run_dir: Path) -> None:
    bus.topics()
    assert completed(run_dir, "eventbus-mp sto") == ["stop", "story"]
    assert completed(run_dir, "eventbus-mp status t") == ["test"]
    assert "a" in completed(run_dir, "eventbus-mp events test ")
    assert "--older-than" in completed(run_dir, "eventbus-mp events test a --")
    assert completed(run_dir, "eventbus-mp dead-letters re") == ["redeliver"]


def test_a_bus_that_does_not_run_offers_nothing(run_dir: Path) -> None:
    assert completed(run_dir, "eventbus-mp events test x") == [""]
    assert not run_dir.exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_evaluates(shell: str, run_dir: Path) -> None:
    assert "eventbus-mp" in run(run_dir, "completion", shell).stdout


def test_bash_takes_it(bus: EventBus, run_dir: Path, tmp_path: Path) -> None:
    bus.topics()
    program = tmp_path / "eventbus-mp"
    main = "import sys; from eventbus_mp.cli import main; sys.exit(main())"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{main}" "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(eventbus-mp completion bash)"
        COMP_LINE="eventbus-mp events te" COMP_POINT=21 COMP_TYPE=9 COMP_WORDS=(eventbus-mp events te) COMP_CWORD=2
        _python_argcomplete eventbus-mp te events
        echo "${COMPREPLY[@]}"
    """
    variables = environment(run_dir, PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == ("test", "")
