"""Replacing files: all or nothing, and never anything but a regular file."""

from __future__ import annotations

import os
import stat

import pytest

from gluonlstm.atomic import replacing
from gluonlstm.errors import InvalidArgumentError


def _write(path, data, **options):
    with replacing(path, **options) as file:
        file.write(data)


def _fail(path, error):
    with replacing(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("fsync", [False, True])
@pytest.mark.parametrize("old", [None, b"old"])
def test_the_file_appears_when_the_block_ends(tmp_path, old, fsync):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    with replacing(path, fsync=fsync) as file:
        file.write(b"new")
        file.flush()
        assert (path.read_bytes() if path.exists() else None) == old
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failure_leaves_what_was_there(tmp_path, old, error):
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(error):
        _fail(path, error)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == ([old] if old else [])


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "missing" / "x"
    with pytest.raises(FileNotFoundError) as caught:
        _write(path, b"new")
    assert caught.value.filename == str(path)
    assert str(path) in str(caught.value)


def test_permissions(tmp_path):
    old = os.umask(0o027)
    try:
        _write(tmp_path / "new", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o604)
    _write(tmp_path / "new", b"")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o604


def test_links_are_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to("target")
    _write(link, b"1")  # dangling
    _write(link, b"2")
    assert link.is_symlink()
    assert target.read_bytes() == b"2"


def test_only_regular_files_are_replaced(tmp_path):
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        _write(tmp_path, b"")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgumentError, match="not a regular file"):
        _write(tmp_path / "pipe", b"")
    with pytest.raises(FileNotFoundError):
        _write(tmp_path / "no" / "folder", b"")


def test_names_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("n" * 255)
    _write(path, b"x")
    assert path.read_bytes() == b"x"
