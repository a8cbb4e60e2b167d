"""Where the embedded server of a project lives, and that it is nobody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from spine.embedded import binary, configuration, directory
from spine.embedded.directory import ServerDirectory, find_directory
from spine.errors import EmbeddedServerError


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory three levels below a directory without any marker."""
    monkeypatch.delenv("SPINE_DIR", raising=False)
    here = tmp_path / "a" / "b" / "c"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    return here


def test_the_environment_decides(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINE_DIR", "/some/where")
    assert find_directory() == Path("/some/where")


@pytest.mark.parametrize("marker", ["pyproject.toml", ".git", ".spine"])
def test_the_nearest_project_above_is_shared(elsewhere: Path, marker: str) -> None:
    for project in (elsewhere.parents[1], elsewhere.parents[0]):
        (project / marker).mkdir()
    assert find_directory() == elsewhere.parents[0] / ".spine"


@pytest.fixture
def outside_of_projects(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, wherever the directory for temporary files may be."""
    monkeypatch.setattr(directory, "_MARKERS", ())
    monkeypatch.setattr(directory, "_NAME", ".spine-of-this-test")
    return elsewhere


def test_outside_of_a_project_it_is_here(outside_of_projects: Path) -> None:
    assert find_directory() == outside_of_projects / ".spine-of-this-test"


def test_the_directory_of_somebody_else_above_is_passed_over(
    outside_of_projects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outside_of_projects.parent / ".spine-of-this-test").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert find_directory() == outside_of_projects / ".spine-of-this-test"


def test_the_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(EmbeddedServerError, match="SPINE_DIR"):
        ServerDirectory.prepare(tmp_path)


def test_it_is_closed_to_others_even_when_it_was_open(tmp_path: Path) -> None:
    (tmp_path / ".spine").mkdir(mode=0o755)
    place = ServerDirectory.prepare(tmp_path / ".spine")
    assert stat.S_IMODE(place.path.stat().st_mode) == 0o700


def test_it_is_ignored_by_git(tmp_path: Path) -> None:
    place = ServerDirectory.prepare(tmp_path / ".spine")
    assert (place.path / ".gitignore").read_text() == "*\n"


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedServerError, match=r"SPINE_DIR.*SPINE_URL"):
        ServerDirectory.prepare(tmp_path / "file" / ".spine")


def test_the_socket_is_beside_the_data(tmp_path: Path) -> None:
    place = ServerDirectory.prepare(tmp_path / ".spine")
    assert place.choose_socket() == place.path / "server.sock"
    assert place.socket() == place.path / "server.sock"


class TestPathTooLongForASocket:
    @pytest.fixture
    def place(self, tmp_path: Path) -> ServerDirectory:
        return ServerDirectory.prepare(tmp_path / ("deep-" * 30) / ".spine")

    @pytest.fixture(autouse=True)
    def runtime_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        runtime = tmp_path / "run"
        runtime.mkdir()
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
        return runtime

    def test_the_socket_is_in_a_short_private_directory(self, place: ServerDirectory, runtime_directory: Path) -> None:
        socket = place.choose_socket()
        assert socket.is_relative_to(runtime_directory)
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700

    def test_everybody_finds_it_whatever_their_environment(
        self, place: ServerDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        socket = place.choose_socket()
        monkeypatch.delenv("XDG_RUNTIME_DIR")
        assert ServerDirectory.prepare(place.path).socket() == socket
        assert ServerDirectory.prepare(place.path).choose_socket() == socket

    def test_a_directory_that_others_can_open_is_not_used_again(self, place: ServerDirectory) -> None:
        socket = place.choose_socket()
        socket.parent.chmod(0o755)
        assert place.choose_socket().parent != socket.parent

    def test_a_directory_that_was_removed_is_replaced(self, place: ServerDirectory) -> None:
        socket = place.choose_socket()
        socket.parent.rmdir()
        assert place.choose_socket().parent.is_dir()


def test_paths_are_quoted_as_the_server_reads_them() -> None:
    text = configuration.rendered({"dir": Path('/a b/"c"\\d\ne')})
    assert text == 'dir "/a b/\\"c\\"\\\\d\\ne"\n'


class TestFindingAServer:
    def test_the_bundled_one_comes_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binary, "_bundled", lambda: Path("/bundled/valkey-server"))
        assert binary.find_server() == Path("/bundled/valkey-server")

    @pytest.mark.parametrize("name", ["valkey-server", "redis-server"])
    def test_else_one_from_the_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setattr(binary, "_bundled", lambda: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        (tmp_path / name).touch(mode=0o755)
        assert binary.find_server() == tmp_path / name

    def test_else_it_is_said_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(binary, "_bundled", lambda: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EmbeddedServerError, match="apt install valkey-server"):
            binary.find_server()
