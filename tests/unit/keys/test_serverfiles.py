"""The key files of a gate's domains: made once, never written over, never shared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.errors import StoreFault
from proxy.keys import serverfiles

DOMAIN = "capulet.example"


def test_a_key_is_read_as_it_was_made(tmp_path: Path) -> None:
    assert serverfiles.load(tmp_path, DOMAIN) is None
    made = serverfiles.make(tmp_path, DOMAIN)
    assert serverfiles.load(tmp_path, DOMAIN) == made
    assert [one.name for one in tmp_path.iterdir()] == ["server-capulet.example.key"]


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    made = serverfiles.make(tmp_path, DOMAIN)
    with pytest.raises(StoreFault, match="exists"):
        serverfiles.make(tmp_path, DOMAIN)
    assert serverfiles.load(tmp_path, DOMAIN) == made
    assert len(list(tmp_path.iterdir())) == 1


def test_the_next_key_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    serverfiles.make(tmp_path, DOMAIN)
    following = serverfiles.make(tmp_path, DOMAIN, "next.key")
    serverfiles.promote(tmp_path, DOMAIN)
    assert serverfiles.load(tmp_path, DOMAIN) == following
    assert serverfiles.load(tmp_path, DOMAIN, "next.key") is None
    with pytest.raises(StoreFault):
        serverfiles.promote(tmp_path, DOMAIN)
    assert serverfiles.load(tmp_path, DOMAIN) == following


def test_loc_13_nobody_else_reads_it_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        serverfiles.make(tmp_path, DOMAIN)
    finally:
        os.umask(old)
    path = serverfiles.key_path(tmp_path, DOMAIN)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o777])
def test_loc_13_a_key_that_others_may_reach_is_refused(
    tmp_path: Path, mode: int
) -> None:
    serverfiles.make(tmp_path, DOMAIN)
    path = serverfiles.key_path(tmp_path, DOMAIN)
    path.chmod(mode)
    with pytest.raises(StoreFault, match="others may read"):
        serverfiles.load(tmp_path, DOMAIN)
    assert path.stat().st_mode & 0o777 == mode


def test_loc_09_a_link_or_a_pipe_is_no_key(tmp_path: Path) -> None:
    serverfiles.make(tmp_path, DOMAIN)
    path = serverfiles.key_path(tmp_path, DOMAIN)
    other = serverfiles.key_path(tmp_path, "montague.example")
    other.symlink_to(path)
    with pytest.raises(StoreFault):
        serverfiles.load(tmp_path, "montague.example")
    other.unlink()
    os.mkfifo(other, 0o600)
    with pytest.raises(StoreFault):
        serverfiles.load(tmp_path, "montague.example")


@pytest.mark.parametrize("size", [0, 1, 30, 107])
def test_a_key_that_was_cut_is_damaged(tmp_path: Path, size: int) -> None:
    serverfiles.make(tmp_path, DOMAIN)
    path = serverfiles.key_path(tmp_path, DOMAIN)
    data = path.read_bytes()
    assert len(data) == 109
    path.write_bytes(data[:size])
    with pytest.raises(StoreFault, match="damaged"):
        serverfiles.load(tmp_path, DOMAIN)
    path.write_bytes(data[:-1])
    assert serverfiles.load(tmp_path, DOMAIN), "an editor may cut the line's end"


@pytest.mark.parametrize(
    "domain", ["", "..", "../x", "a/b", "A.example", "juliet@capulet.example", "a.b/c"]
)
def test_a_domain_names_a_file_in_the_folder(tmp_path: Path, domain: str) -> None:
    with pytest.raises(StoreFault):
        serverfiles.load(tmp_path, domain)
