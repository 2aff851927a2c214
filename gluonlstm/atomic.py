"""Write a file so that readers see either what was there before or all of what is there now."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from gluonlstm.errors import InvalidArgumentError


@contextlib.contextmanager
def replacing(path: str | PathLike[str], *, fsync: bool = False) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of ``path`` when the block ends without an error.

    The bytes go to a temporary file in the same folder, which then is renamed over ``path``. If the
    block raises, the temporary file is removed and ``path`` is as before. A symbolic link is
    followed; an existing file keeps its permission bits. With ``fsync`` the bytes are on the disk
    before the rename, so that not even a power failure leaves half a file.

    Raises InvalidArgumentError when ``path`` exists and is not a regular file (a rename would
    destroy a device or pipe), OSError when the folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise InvalidArgumentError(f"{path} is not a regular file and cannot be replaced.")
    # The name does not contain the target's, which may already be as long as names can be.
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with _create(temporary, path) as file:
            yield file
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
    except BaseException:  # an interrupt leaves no temporary file either
        temporary.unlink(missing_ok=True)
        raise
    if fsync:
        _sync_folder(target.parent)


def _create(temporary: Path, path: str | PathLike[str]) -> BinaryIO:
    try:
        return temporary.open("xb")
    except OSError as error:
        error.filename = os.fspath(path)  # the caller knows nothing of the temporary file
        raise


def _sync_folder(folder: Path) -> None:
    """Write the folder's entry of a renamed file to disk, where the system can (POSIX)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
