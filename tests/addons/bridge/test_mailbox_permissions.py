"""TLS, and what a host may do: the configuration of the how-to, word for word, on a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp.addons.bridge.mailboxes import MailboxesRefused, NatsMailboxes
from tests.addons.bridge.nats_servers import NatsServer, eventually, run
from tests.addons.bridge.posts import pull

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "bridge-servers.md"


def block(title: str) -> str:
    """A file that the page shows."""
    found = re.search(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made as the page says."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl")
    directory = tmp_path_factory.mktemp("certificates")
    subprocess.run(["sh", "-ec", block("certificates.sh")], cwd=directory, check=True, capture_output=True)
    return directory


@pytest.fixture
def start_guarded(start_server: Callable[..., NatsServer], certificates: Path) -> Callable[..., NatsServer]:
    """Starts servers with the page's configuration, but for the address and the store."""

    def start(program: Path | None = None) -> NatsServer:
        shown = block("nats-server.conf").replace("/etc/nats", str(certificates))
        config = "\n".join(line for line in shown.splitlines() if not line.startswith(("listen:", "jetstream ")))
        server = start_server(program, config=config)
        server.scheme = "tls"
        return server

    return start


@pytest.fixture
def guarded(start_guarded: Callable[..., NatsServer], any_program: Path) -> NatsServer:
    return start_guarded(any_program)


def as_user(server: NatsServer, certificates: Path, user: str, host: str, **how: Any) -> NatsMailboxes:
    """Mailboxes of this host, with the certificate of this user."""
    files = {"tls_ca": "ca", "tls_cert": user, "tls_key": f"{user}-key"}
    paths = {name: str(certificates / f"{file}.pem") for name, file in files.items()}
    return NatsMailboxes(server.url, "shop", host, **paths, **how)


def test_a_bridge_needs_no_more_than_that(guarded: NatsServer, certificates: Path) -> None:
    async def work() -> None:
        a = as_user(guarded, certificates, "a.example", "A")
        b = as_user(guarded, certificates, "b.example", "B")
        heard: list[tuple[str, bytes | None]] = []
        try:
            await a.open()
            await b.open()
            b.hear(lambda host, state: heard.append((host, state)))
            await a.shout(b"of A")
            await eventually(lambda: heard == [("A", b"of A")])
            for box in ("to", "back"):
                await a.store(box, "B", b"x")
                assert await pull(b, 1, box) == [b"x"]
                await b.store(box, "A", b"y")
                assert await pull(a, 1, box, how="broken") == [b"y"]
        finally:
            await a.close()
            await b.close()

    run(work)


def test_a_host_cannot_take_the_place_of_another(guarded: NatsServer, certificates: Path) -> None:
    async def work() -> None:
        impostor = as_user(guarded, certificates, "a.example", "B")
        with pytest.raises(MailboxesRefused, match=r"does not permit to (subscribe to '_eb\.shop\.b|publish)"):
            await impostor.open()

    run(work)


@pytest.mark.parametrize(
    "subject",
    [
        "$KV.EB_shop_hosts.B",
        "$JS.API.CONSUMER.MSG.NEXT.EB_shop.to_B",
        "$JS.API.CONSUMER.CREATE.EB_shop.to_B.eb.shop.to.B",
        "$JS.API.CONSUMER.CREATE.EB_shop.mine.eb.shop.to.B",
        "$JS.API.CONSUMER.DELETE.EB_shop.to_B",
        "$JS.API.STREAM.PURGE.EB_shop",
        "$JS.API.STREAM.UPDATE.EB_shop",
        "$JS.API.STREAM.DELETE.EB_shop",
        "$JS.API.STREAM.MSG.GET.EB_shop",
        "$JS.API.DIRECT.GET.EB_shop",
        "$JS.ACK.EB_shop.to_B.1.1.1.1.0",
        "eb.other.to.B",
    ],
)
def test_what_a_host_may_not_do(start_guarded: Callable[..., NatsServer], certificates: Path, subject: str) -> None:
    server = start_guarded()

    async def work() -> None:
        a = as_user(server, certificates, "a.example", "A")
        try:
            await a.open()
            with pytest.raises(MailboxesRefused, match=re.escape(f"does not permit to publish to '{subject}'")):
                await a._session.lanes["to"].ask(subject, b"")
            await a.store("to", "B", b"goes on")
        finally:
            await a.close()

    run(work)


def test_a_server_of_another_authority_and_a_host_without_a_certificate(
    guarded: NatsServer, certificates: Path
) -> None:
    ca = str(certificates / "ca.pem")

    async def work() -> None:
        with pytest.raises(MailboxesRefused, match=r"TLS .* fails: .*name the authority that signed .* \(tls_ca\)"):
            await NatsMailboxes(guarded.url, "shop", "A").open()
        with pytest.raises(MailboxesRefused, match=r"TLS with .* fails: .*\(tls_cert, tls_key\) if the server asks"):
            await NatsMailboxes(guarded.url, "shop", "A", tls_ca=ca).open()

    run(work)
