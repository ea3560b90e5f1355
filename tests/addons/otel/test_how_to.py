"""The programs of docs/how-to/opentelemetry.md do what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from tests.addons.otel.gunicorn import Gunicorn
from tests.addons.otel.receiver import Receiver

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "how-to" / "opentelemetry.md").read_text()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page."""
    for name, text in re.findall(r"^```python (\S+)\n(.*?)^```$", PAGE, re.M | re.S):
        (tmp_path / name).write_text(text)
    return tmp_path


def environment(receiver: Receiver, run_dir: Path) -> dict[str, str]:
    return {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url.removesuffix("/v1/traces"),
        "EVENTBUS_MP_RUN_DIR": str(run_dir),
        "EVENTBUS_MP_MANAGER_IDLE_S": "0.2",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


def test_the_shop(folder: Path, run_dir: Path) -> None:
    with Receiver() as receiver:
        variables = environment(receiver, run_dir)
        command = [sys.executable, "shop.py"]
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "packed 4711\n", "")
        spans = receiver.wait_for(6)
    (said,) = re.findall(r"^```\n(checkout\n.*?)^```$", PAGE, re.M | re.S)
    names = [line.strip() for line in said.splitlines()]
    found = [next(span for span in spans if span.name == name) for name in names]
    assert [span.parent_id for span in found] == ["", *[span.span_id for span in found[:-1]]]
    assert {(span.trace_id, span.service) for span in spans} == {(spans[0].trace_id, "shop")}


def test_the_shop_with_metrics(folder: Path, run_dir: Path) -> None:
    program = (folder / "shop.py").read_text()
    (folder / "shop.py").write_text(program.replace("from tracing import", "from telemetry import"))
    with Receiver() as receiver:
        variables = environment(receiver, run_dir)
        command = [sys.executable, "shop.py"]
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "packed 4711\n", "")
        receiver.wait_for(6)
    counted: Counter[str] = Counter()
    for (name, _), count in receiver.counts.items():
        counted[name] += count
    said = re.findall(r"^\| `(messaging\.[\w.]+)` \| (?:counter|histogram) \|", PAGE, re.M)
    assert counted == dict.fromkeys(said, 2)


def test_gunicorn(folder: Path, run_dir: Path) -> None:
    pytest.importorskip("gunicorn")
    with Receiver() as receiver:
        variables = environment(receiver, run_dir)
        with (
            Gunicorn(["--preload", "web:app"], folder, variables) as port,
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", data=b"", timeout=60) as answer,
        ):
            assert answer.status == 202
        spans = {span.name: span for span in receiver.wait_for(2)}
    assert spans["publish order_placed"].parent_id == spans["POST /orders"].span_id
