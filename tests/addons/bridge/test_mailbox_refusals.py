"""Servers that cannot or will not: each of them is an error that says what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventbus_mp import UsageError
from eventbus_mp.addons.bridge.mailboxes import (
    MailboxesClosed,
    MailboxesRefused,
    MailboxesUnreachable,
    NatsMailboxes,
)
from tests.addons.bridge.nats_servers import NatsServer, eventually, free_ports, run
from tests.addons.bridge.posts import opened, pull


def test_nobody_answers() -> None:
    (port,) = free_ports(1)
    url = f"nats://me:secret@127.0.0.1:{port}"

    async def work() -> None:
        with pytest.raises(MailboxesUnreachable, match=f"at nats://127.0.0.1:{port} within 0.3 s: .*Connect") as caught:
            await NatsMailboxes(url, "shop", "A", connect_timeout_s=0.3).open()
        assert "secret" not in str(caught.value)

    run(work)


def test_a_host_that_there_is_not() -> None:
    async def work() -> None:
        with pytest.raises(MailboxesUnreachable, match=r"no NATS server answers at nats://no-such-host.invalid"):
            await NatsMailboxes("nats://no-such-host.invalid", "shop", "A", connect_timeout_s=1).open()

    run(work)


@pytest.mark.parametrize("servers", ["", "nats://127.0.0.1:1,,nats://127.0.0.1:2", []])
def test_addresses_that_are_none(servers: Any) -> None:
    with pytest.raises(UsageError, match="has no address"):
        NatsMailboxes(servers, "shop", "A")


def test_open_waits_for_a_server_that_comes_later(server: NatsServer) -> None:
    async def work() -> None:
        server.kill()
        mailboxes = NatsMailboxes(server.url, "shop", "A", connect_timeout_s=None)
        opening = asyncio.ensure_future(mailboxes.open())
        await asyncio.wait([opening], timeout=0.3)
        assert not opening.done()
        await asyncio.to_thread(server.start)
        await opening
        await mailboxes.close()

    run(work)


def test_a_server_without_jetstream(start_server: Callable[..., NatsServer], any_program: Path) -> None:
    server = start_server(any_program, jetstream=False)

    async def work() -> None:
        with pytest.raises(MailboxesRefused, match="no JetStream for this user; start it with -js"):
            await NatsMailboxes(server.url, "shop", "A").open()

    run(work)


def test_wrong_credentials(start_server: Callable[..., NatsServer], any_program: Path) -> None:
    server = start_server(any_program, config="authorization { user: bridge, password: right }")
    url = server.url.replace("//", "//bridge:wrong@")

    async def work() -> None:
        with pytest.raises(MailboxesRefused, match=r"refuses the credentials: .*correct user and password") as caught:
            await NatsMailboxes(url, "shop", "A").open()
        assert "wrong" not in str(caught.value)
        async with opened(server, "A", urls=url.replace("wrong", "right")) as (a,):
            await a.store("to", "A", b"x")

    run(work)


def test_a_stream_of_another_configuration(any_server: NatsServer) -> None:
    async def work() -> None:
        async with opened(any_server, "A", letters_max=100):
            with pytest.raises(
                MailboxesRefused,
                match=r"EB_shop has max_msgs_per_subject=100 and not 200; start all hosts .* nats stream edit EB_shop",
            ):
                await NatsMailboxes(any_server.url, "shop", "B", letters_max=200).open()

    run(work)


def test_more_replicas_than_a_server_alone_can_have(any_server: NatsServer) -> None:
    async def work() -> None:
        with pytest.raises(MailboxesRefused, match="does not make the stream EB_shop: replicas > 1 not supported"):
            await NatsMailboxes(any_server.url, "shop", "A", replicas=3).open()

    run(work)


def test_somebody_else_has_the_subjects(server: NatsServer) -> None:
    async def work() -> None:
        async with opened(server, "A") as (a,):
            await a._session._api.ask("$JS.API.STREAM.CREATE.mine", b'{"name": "mine", "subjects": ["eb.other.>"]}')
            with pytest.raises(MailboxesRefused, match="EB_other: subjects overlap with an existing stream"):
                await NatsMailboxes(server.url, "other", "A").open()

    run(work)


def test_a_client_that_closes_for_good_says_so(any_server: NatsServer) -> None:
    """As after any error of a server that it does not know."""

    async def work() -> None:
        async with opened(any_server, "A") as (a,):
            pulling = asyncio.ensure_future(a.pull("to"))
            storing = asyncio.ensure_future(a.store("to", "A", b"x"))
            await storing
            await pulling
            pulling = asyncio.ensure_future(a.pull("to"))
            a._session.link._client._transport.write(b"NONSENSE\r\n")
            with pytest.raises(MailboxesClosed, match=r"has closed for good: .*unknown protocol operation"):
                await pulling
            with pytest.raises(MailboxesClosed, match="open new mailboxes"):
                await a.store("to", "A", b"x")

    run(work)


def test_credentials_that_refuse_later_do_not_end_it(start_server: Callable[..., NatsServer]) -> None:
    """A server that comes back with other users may get the right ones yet."""
    config = "authorization {{ user: bridge, password: {} }}"
    server = start_server(config=config.format("right"))

    async def work() -> None:
        async with opened(server, "A", urls=server.url.replace("//", "//bridge:right@")) as (a,):
            await a.store("to", "A", b"x")
            server.kill()
            server.config = config.format("other")
            await asyncio.to_thread(server.start)
            await eventually(lambda: "Authorization" in a._session.link._last_error)
            server.kill()
            server.config = config.format("right")
            await asyncio.to_thread(server.start)
            assert await pull(a, 1) == [b"x"]

    run(work)


def test_the_package_is_missing() -> None:
    program = (
        "import sys; sys.modules['nats'] = None\n"
        "from eventbus_mp import UsageError\n"
        "try:\n    import eventbus_mp.addons.bridge.mailboxes\n"
        "except UsageError as error:\n    print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "a bridge needs the package nats-py, which is not installed; type: pip install 'eventbus-mp[nats]'\n"


@pytest.mark.parametrize("text", [None, "nothing", "-----BEGIN NATS USER JWT-----\n"])
def test_a_file_of_credentials_that_is_none(tmp_path: Path, text: str | None) -> None:
    creds = tmp_path / "bridge.creds"
    if text is not None:
        creds.write_text(text)

    async def work() -> None:
        with pytest.raises(UsageError, match=r"bridge\.creds"):
            await NatsMailboxes("nats://127.0.0.1:1", "shop", "A", creds=str(creds), connect_timeout_s=1).open()

    run(work)


def test_certificates_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for wrong in ("ca.pem", "missing.pem"):
        with pytest.raises(UsageError, match=f"cannot use the certificates .*{wrong}: .*correct tls_ca"):
            NatsMailboxes("tls://127.0.0.1:1", "shop", "A", tls_ca=str(tmp_path / wrong))
