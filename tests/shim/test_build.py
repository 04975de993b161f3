"""Finding and building the preload library."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from xedev.shim import LibraryError, build, library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, and no library from the installation."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_installed", lambda: None)
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def fake_compiler(directory: Path, script: str) -> Path:
    path = directory / "fake-cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def output_of(compiler: str) -> str:
    """A script that writes to what -o names."""
    return f'while [ "$1" != -o ]; do shift; done; {compiler} > "$2"'


def test_it_is_built_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(fake_compiler(cache, output_of("echo built"))))
    first = library()
    assert first.read_text() == "built\n"
    assert first.parent == cache / "xe-mock"
    no_compiler(monkeypatch)
    assert library() == first
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_without_a_compiler_it_says_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch)
    with pytest.raises(LibraryError, match=r"gcc.*libc6-dev.*ziglang"):
        library()


def test_it_tells_what_a_compiler_complained_about(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_compiler(monkeypatch)
    monkeypatch.setenv("CC", f"{fake_compiler(cache, '/bin/echo no headers >&2; exit 1')} -m64")
    with pytest.raises(LibraryError, match=r"fake-cc -m64: no headers"):
        library()
    assert list((cache / "xe-mock").iterdir()) == []


def test_another_compiler_is_tried(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/nonexistent/cc")
    fake_compiler(cache, output_of("/bin/echo second")).rename(cache / "cc")
    monkeypatch.setenv("PATH", str(cache))
    assert library().read_text() == "second\n"


def test_a_cache_that_cannot_be_written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "file"))
    with pytest.raises(LibraryError, match="XDG_CACHE_HOME"):
        library()


@pytest.mark.clients
def test_what_is_built_needs_an_old_c_library_only(cache: Path) -> None:
    needed = subprocess.check_output(["strings", str(library())], text=True).split()
    versions = {word for word in needed if word.startswith("GLIBC_")}
    assert versions
    assert all(tuple(map(int, v[6:].split("."))) <= (2, 17) for v in versions)


def test_the_installed_one_is_taken_unless_sources_are_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, built = tmp_path / "a.c", tmp_path / "preload.cpython-311.so"
    source.write_text("")
    built.write_text("")
    os.utime(source, (1000, 1000))
    os.utime(built, (1000, 1000))
    monkeypatch.setattr(build, "_PACKAGE", tmp_path)
    monkeypatch.setattr(build, "_inputs", lambda: [source])
    monkeypatch.setattr(build, "_cached", lambda: Path("cached"))
    assert library() == built
    os.utime(source, (2000, 2000))
    assert library() == Path("cached")
