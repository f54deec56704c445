"""Files given by a path or open already, written so that what was there is lost only when what comes is whole."""

import io
import os
import pathlib
import secrets
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from stable_baselines3.common.save_util import open_path

PathOrFile = str | pathlib.Path | io.BufferedIOBase


@contextmanager
def readable(path: PathOrFile, suffix: str) -> Iterator[Any]:
    """
    ``with readable(path) as file:`` gives an open binary file, which is closed afterwards if it was given by its path.

    :param path: of the file, or an open binary file
    :param suffix: ending without its dot, tried for a path that is not there
    :raises OSError: as ``open`` does
    """
    file = open_path(path, "r", suffix=suffix)
    try:
        yield file
    finally:
        if file is not path:
            file.close()


@contextmanager
def atomic_file(path: PathOrFile, suffix: str | None = None) -> Iterator[Any]:
    """
    ``with atomic_file(path) as file:`` gives an open binary file, which becomes ``path`` when the context ends well.

    What is promised:

    - At every moment ``path`` is whole: as it was before, or not there if it was not, until the context has ended;
      the new one from then on. That holds for exceptions, Ctrl-C, a full disk, SIGKILL and a power cut.
    - After an exception nothing stays behind. After SIGKILL or a power cut a file ``.sb3_trpo_ext-….tmp`` may stay.
    - Links, permissions and refusals are those of ``open(path, "wb")``: a symbolic link stays one, and what it points
      to is replaced; an existing file keeps its permissions; a file that may not be written is not replaced.
    - What is no regular file, such as ``/dev/null`` or a pipe, cannot be replaced, and is written directly. So is a
      file that is open already.

    The folder must be writable, because the new file is written beside the old one. Hard links to the old file keep
    the old contents.

    :param path: of the file, or an open binary file. As with SB3's ``open_path``, missing folders are made, and a
        folder is not replaced: the file is then called ``path_2``.
    :param suffix: ending without its dot, for a path that has none
    :raises OSError: as ``open`` and ``write`` do
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield open_path(path, "w")
        return
    path = _named(pathlib.Path(path), suffix)
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    target = pathlib.Path(os.path.realpath(path))
    existed = target.exists()
    if existed:
        with target.open("r+b"):  # only to be refused as an ordinary write would be
            pass
    temporary = target.with_name(f".sb3_trpo_ext-{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            if existed:
                with suppress(OSError):  # some file systems have no permissions
                    shutil.copymode(target, temporary)
            yield file
            file.flush()
            os.fsync(file.fileno())  # or the new name could reach the disk before the contents
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _keep_name(target.parent)


def _named(path: pathlib.Path, suffix: str | None) -> pathlib.Path:
    """The path with its ending; its folder exists, and it is none itself."""
    if suffix and not path.suffix:
        path = pathlib.Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=4)
        path = pathlib.Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=4)
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _keep_name(folder: pathlib.Path) -> None:
    """Wait until a new name is on the disk, where the system can say so."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
