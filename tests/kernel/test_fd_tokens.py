from __future__ import annotations

import errno

import pytest

from uapi.xe_mock import XE_MOCK_TOKEN_BASE
from xedev.kernel.caller import Caller
from xedev.kernel.errors import KernelError
from xedev.kernel.files import FdTokens, File

ME, OTHER = 100, 200


class Release(File):
    """A file that counts its releases."""

    def __init__(self) -> None:
        self.releases = 0

    def ioctl(self, cmd: int, data: int, caller: Caller) -> int:
        return -errno.ENOTTY

    def release(self) -> None:
        self.releases += 1


def test_a_token_is_no_descriptor_and_never_comes_again() -> None:
    tokens, owner = FdTokens(), object()
    seen = []
    for _ in range(3):
        seen.append(tokens.install(Release(), owner, ME))
        tokens.claim(seen[-1], ME)
    assert seen == sorted(set(seen))
    assert seen[0] >= XE_MOCK_TOKEN_BASE


def test_a_token_is_claimed_once() -> None:
    tokens, file = FdTokens(), Release()
    token = tokens.install(file, object(), ME)
    assert tokens.find(token) is not None
    assert tokens.claim(token, ME) is file
    assert tokens.find(token) is None
    with pytest.raises(KernelError) as caught:
        tokens.claim(token, ME)
    assert caught.value.errno == errno.ENOENT
    assert file.releases == 0, "the descriptor is still open"


def test_a_token_is_bound_to_its_process() -> None:
    tokens, file = FdTokens(), Release()
    token = tokens.install(file, object(), ME)
    with pytest.raises(KernelError) as caught:
        tokens.claim(token, OTHER)
    assert caught.value.errno == errno.EACCES
    assert tokens.claim(token, ME) is file, "an attempt of another does no harm"


def test_a_token_goes_with_its_file() -> None:
    tokens, mine, other = FdTokens(), object(), object()
    files = [Release() for _ in range(4)]
    claimed = tokens.install(files[0], mine, ME)
    dropped = tokens.install(files[1], mine, ME)
    kept = tokens.install(files[2], other, ME)
    tokens.install(files[3], mine, OTHER)
    tokens.claim(claimed, ME)
    tokens.drop_owner(mine)
    assert [file.releases for file in files] == [0, 1, 0, 1]
    assert len(tokens) == 1
    with pytest.raises(KernelError) as caught:
        tokens.claim(dropped, ME)
    assert caught.value.errno == errno.ENOENT
    assert tokens.claim(kept, ME) is files[2]


def test_an_unknown_token() -> None:
    with pytest.raises(KernelError) as caught:
        FdTokens().claim(XE_MOCK_TOKEN_BASE, ME)
    assert caught.value.errno == errno.ENOENT
