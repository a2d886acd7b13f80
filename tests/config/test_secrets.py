"""Where tokens are found, and which files are refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.secrets import MAX_SECRET_BYTES, exposure, find_secret, read_file, read_secret_file
from mxrtc_bridge.core.errors import ConfigError

from .samples import AS_TOKEN, GOOD, HS_TOKEN, changed, load, mistakes, text_of


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_places_are_searched_in_order(tmp_path: Path) -> None:
    for name in ("from-env", "from-config", "hs_token"):
        private(tmp_path / name, f"  {name}\n")
    environ = {
        "MXRTC_HS_TOKEN": "direct",
        "MXRTC_HS_TOKEN_FILE": "from-env",
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    assert find_secret("hs_token", "inline", None, tmp_path, environ) == "direct"
    del environ["MXRTC_HS_TOKEN"]
    assert find_secret("hs_token", "inline", None, tmp_path, environ) == "from-env"
    del environ["MXRTC_HS_TOKEN_FILE"]
    assert find_secret("hs_token", "inline", None, tmp_path, environ) == "inline"
    assert find_secret("hs_token", None, "from-config", tmp_path, environ) == "from-config"
    assert find_secret("hs_token", None, None, tmp_path, environ) == "hs_token"
    assert find_secret("as_token", None, None, tmp_path, environ) is None
    assert find_secret("hs_token", None, None, tmp_path, {}) is None


def test_configuration_takes_tokens_from_files(tmp_path: Path) -> None:
    private(tmp_path / "hs", HS_TOKEN + "\n")
    private(tmp_path / "as", AS_TOKEN + "\n", 0o640)
    data = changed("appservice", to={"hs_token_file": "hs", "as_token_file": str(tmp_path / "as")})
    config = load(data, path=tmp_path / "config.yaml")
    assert (config.appservice.hs_token, config.appservice.as_token) == (HS_TOKEN, AS_TOKEN)


def test_environment_replaces_the_database_too() -> None:
    url = "postgres://u:p@db/bridge"
    assert load(changed("database", to="sqlite:x"), {"MXRTC_DATABASE": url}).database == url


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440, 0o700])
def test_private_modes_are_accepted(tmp_path: Path, mode: int) -> None:
    assert read_secret_file(private(tmp_path / "token", "x" * 20, mode)) == "x" * 20


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o620, 0o601, 0o602, 0o777])
def test_modes_that_let_others_in_are_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "token", "x" * 20, mode)
    with pytest.raises(ConfigError) as caught:
        read_secret_file(path)
    assert str(caught.value).endswith(
        f"has mode {mode:04o}, so that others can read or change it; run: chmod 0600 {path}"
    )


def test_owner_must_be_us_or_root() -> None:
    path, me = Path("/x"), os.geteuid()
    assert exposure(path, 0o100600, me) is None
    assert exposure(path, 0o100600, 0) is None
    complaint = exposure(path, 0o100600, me + 1)
    assert complaint is not None
    # Root is given no command that takes a file away from the service that reads it.
    advice = f"run: chown {me} /x" if me else "give it to the user that runs the bridge"
    assert complaint.endswith(f"belongs to user {me + 1}; {advice}")


def test_a_mistake_with_a_token_file_is_reported_with_its_key(tmp_path: Path) -> None:
    private(tmp_path / "open", HS_TOKEN, 0o644)
    data = changed("appservice", to={"hs_token_file": "open", "as_token_file": "missing"})
    assert mistakes(data, path=tmp_path / "config.yaml") == [
        (
            f"line 3: appservice.hs_token_file: {tmp_path}/open holds a secret and has mode 0644, so that others can "
            f"read or change it; run: chmod 0600 {tmp_path}/open"
        ),
        f"line 3: appservice.as_token_file: {tmp_path}/missing cannot be read: No such file or directory",
    ]


def test_files_that_are_no_text_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, message in (
        (tmp_path / "fifo", "is not a regular file"),
        (tmp_path, "is not a regular file"),
        (Path("/dev/zero"), "is not a regular file"),
        (private(tmp_path / "large", "x" * (MAX_SECRET_BYTES + 1)), "is larger than 4096 bytes"),
        (tmp_path / "missing", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_secret_file(path)
    assert read_secret_file(private(tmp_path / "full", "x" * MAX_SECRET_BYTES)) == "x" * MAX_SECRET_BYTES


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a\nb\nc\xe9\n")
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(line 3\)"):
        read_file(tmp_path / "latin")


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbfversion: 1\n")
    assert read_file(tmp_path / "bom").text == "version: 1\n"


def test_configuration_that_everybody_can_write_to_is_refused_although_it_holds_no_secret(tmp_path: Path) -> None:
    """Whoever writes it grants."""
    path = tmp_path / "config.yaml"
    data = {**GOOD, "appservice": {}}
    path.write_text(text_of(data))
    environ = {"MXRTC_HS_TOKEN": HS_TOKEN, "MXRTC_AS_TOKEN": AS_TOKEN}
    path.chmod(0o664)
    load_config(path, environ)
    path.chmod(0o666)
    with pytest.raises(ConfigError, match=f"written by everybody.*chmod o-w {path}"):
        load_config(path, environ)
