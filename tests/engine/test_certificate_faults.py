"""What a person reads of a certificate that is not accepted: the fault, and what on this machine may be its cause."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mxrtc_bridge.engine.certificate_faults import certificate_fault
from tests.certificates import make_certificate


async def fault(server: ssl.SSLContext) -> str:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=server) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await asyncio.open_connection("127.0.0.1", port, ssl=ssl.create_default_context())
    return certificate_fault(caught.value)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return tmp_path / "own.pem"


async def test_one_that_nobody_trusts_is_its_own_fault_where_others_are_trusted(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path / "other.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.pem"))
    assert await fault(make_certificate(own)) == "self-signed certificate"


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_a_list_of_authorities_that_cannot_be_read_is_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "list").write_bytes(content)
    monkeypatch.setenv(name, str(tmp_path / "list"))
    said = await fault(make_certificate(own))
    assert said == f"self-signed certificate ({name} names no certificates that can be read)"


async def test_a_machine_without_any_authority_is_told(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "", "SSL_CERT_DIR", "")  # type: ignore[call-arg]
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    assert (await fault(make_certificate(own))).endswith("has no list of authorities: install ca-certificates)")


async def test_one_that_is_not_valid_now_is_told_with_what_the_clock_says(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make_certificate(own, ended=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert (await fault(context)).startswith(f"certificate has expired (it is {datetime.now(UTC):%Y-%m-%d} ")


async def test_one_for_another_name_is_told_without_the_address(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_certificate(own, addresses=("127.0.0.2",))
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert await fault(context) == "it is made for another name"


def test_whatever_else_is_about_a_certificate_has_words() -> None:
    assert certificate_fault(OSError()) == "no reason is given"
