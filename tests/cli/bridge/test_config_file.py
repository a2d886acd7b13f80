"""``mxrtc-bridge config upgrade``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mxrtc_bridge.config.loader import load_config
from tests.bridge_command import Run, run_in_process
from tests.other_user import OTHER_UID, needs_root, public_directory

EARLIER = Path(__file__).parent.parent.parent / "config/earlier"
OLD = (EARLIER / "d3f536d-example.yaml").read_text()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.touch(mode=0o640)
    path.write_text(OLD)
    return path


def test_it_rewrites_the_file_says_what_it_has_written_down_and_keeps_the_old_one(config: Path, run: Run) -> None:
    old = config.stat()
    code, out, err = run("config", "upgrade", "-c", config)
    kept = config.with_name("config.yaml.version-1")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "peers.build.services.inbox.files.names: refuse, which was the default before; now it is keep",
        f"{config} is in version 2 now, and says what it said. The file of before is {kept}.",
    ]
    assert (kept.read_text(), kept.stat().st_ino, kept.stat().st_nlink) == (OLD, old.st_ino, 1)
    assert "names: refuse" in config.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (config, kept)} == {0o640}
    assert load_config(config).version == 2
    before = config.stat()
    assert run("config", "upgrade", "-c", config)[:2] == (0, f"{config} is in version 2 already, the latest one.\n")
    assert config.stat() == before
    assert sorted(path.name for path in config.parent.iterdir()) == [config.name, kept.name]


def test_a_copy_that_is_there_is_never_replaced(config: Path, run: Run) -> None:
    config.with_name("config.yaml.version-1").write_text("precious")
    code, out, err = run("config", "upgrade", "-c", config)
    assert (code, "is " + str(config.with_name("config.yaml.version-1.2")) in out) == (0, True), err
    assert config.with_name("config.yaml.version-1").read_text() == "precious"
    assert config.with_name("config.yaml.version-1.2").read_text() == OLD


def test_one_that_was_cut_off_after_its_copy_goes_on_with_that(config: Path, run: Run) -> None:
    os.link(config, config.with_name("config.yaml.version-1"))
    assert run("config", "upgrade", "-c", config)[0] == 0
    assert sorted(path.name for path in config.parent.iterdir()) == ["config.yaml", "config.yaml.version-1"]


def test_so_many_copies_that_no_name_is_free_change_nothing(config: Path, run: Run) -> None:
    for number in range(1, 100):
        config.with_name("config.yaml.version-1" + (f".{number}" if number > 1 else "")).touch()
    code, _, err = run("config", "upgrade", "-c", config)
    assert (code, "98 more copies of config.yaml are there already" in err, config.read_text()) == (78, True, OLD), err


def test_a_file_with_mistakes_is_left_alone(config: Path, run: Run) -> None:
    config.write_text(OLD.replace("domain:", "domian:"))
    code, out, err = run("config", "upgrade", "-c", config)
    assert (code, out, "domian" in err) == (78, "", True)
    assert os.listdir(config.parent) == ["config.yaml"]


def test_a_link_stays_and_what_it_leads_to_is_upgraded(config: Path, run: Run, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(config)
    assert run("config", "upgrade", "-c", link)[0] == 0
    assert link.is_symlink()
    assert load_config(config).version == 2
    assert config.with_name("config.yaml.version-1").exists()


@needs_root
def test_both_files_belong_to_the_owner_of_before(run: Run) -> None:
    with public_directory() as above:
        above.chmod(0o755)
        folder = above / "mxrtc"
        folder.mkdir(mode=0o700)
        config = folder / "config.yaml"
        config.touch(mode=0o600)
        config.write_text(OLD)
        for path in (folder, config):
            os.chown(path, OTHER_UID, OTHER_UID)
        code, _, err = run("config", "upgrade", "-c", config)
        assert code == 0, err
        assert {(path.name, path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()} == {
            (name, OTHER_UID, OTHER_UID) for name in ("config.yaml", "config.yaml.version-1")
        }


def test_check_says_that_it_is_due_until_it_is_done(config: Path, run: Run) -> None:
    def due() -> bool:
        code, out, err = run("check", "--offline", "-c", config)
        assert code == 0, err + out
        return "to have it in version 2: mxrtc-bridge config upgrade" in out

    assert due()
    assert run("config", "upgrade", "-c", config)[0] == 0
    assert not due()
