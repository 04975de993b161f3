"""Contents of BOs: copies between them, also while somebody takes them away."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from xedev.gpu.pages import BoPages, OpenFiles

SIZE = 1 << 20


class Contents:
    """Files of BOs, as the driver has them."""

    def __init__(self) -> None:
        self.files = OpenFiles(8)
        self._fds: list[int] = []

    def make(self, text: bytes) -> tuple[BoPages, int]:
        """One that is full of ``text``; its pages, and the driver's descriptor."""
        fd = os.memfd_create("contents")
        os.pwrite(fd, text * (SIZE // len(text)), 0)
        self._fds.append(fd)
        where = f"/proc/{os.getpid()}/fd/{fd}", os.fstat(fd).st_ino
        pages = BoPages(len(self._fds), lambda *_: where, self.files)
        pages.open()
        return pages, fd

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def contents() -> Iterator[Contents]:
    contents = Contents()
    yield contents
    contents.close()


def test_a_copy_takes_what_is_there(contents: Contents) -> None:
    (source, _), (target, fd) = contents.make(b"abcd"), contents.make(b"....")
    assert source.copy_to(target, 4, 8, SIZE // 2) == SIZE // 2
    assert os.pread(fd, SIZE, 0) == b"." * 8 + b"abcd" * (SIZE // 8) + b"." * (SIZE // 2 - 8)
    source.end()
    target.end()


@pytest.mark.parametrize("cut", ["source", "target"])
def test_what_was_cut_is_not_copied_and_nobody_dies(contents: Contents, cut: str) -> None:
    (source, source_fd), (target, target_fd) = contents.make(b"a"), contents.make(b"b")
    assert source.copy_to(target, 0, 0, 4096) == 4096
    os.ftruncate(source_fd if cut == "source" else target_fd, 0)
    assert source.copy_to(target, 0, 0, 4096) == 0
    source.end()
    target.end()


def test_a_copy_within_one_file_must_not_overlap(contents: Contents) -> None:
    pages, fd = contents.make(b"0123")
    assert pages.copy_to(pages, 0, 2, 4096) == 0
    assert pages.copy_to(pages, 0, 8192, 4096) == 4096
    assert os.pread(fd, SIZE, 0) == b"0123" * (SIZE // 4)
    pages.end()


def test_mappings_go_with_the_files(contents: Contents) -> None:
    before, made = _mapped(), list[BoPages]()
    for _ in range(20):
        (source, _), (target, _) = contents.make(b"a"), contents.make(b"b")
        assert source.copy_to(target, 0, 0, SIZE) == SIZE
        made += [source, target]
    assert _mapped() - before <= 8
    for pages in made:
        pages.end()
    assert _mapped() == before


def _mapped() -> int:
    with open("/proc/self/maps") as maps:
        return sum("memfd:contents" in line for line in maps)
