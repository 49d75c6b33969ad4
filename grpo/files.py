"""Files and folders that are either complete or absent, whatever moment the process dies at."""

import errno
import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from grpo.types import UserError

_NO_ROOM = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "file too large"}


class DiskFull(UserError):
    """A file did not fit on its disk. Nothing that was complete before is lost."""


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Yield an empty folder beside `final` that takes its place when the block ends, and is removed when it raises.

    An older folder at `final` stays until the new one is on disk. Raises DiskFull when space runs out.
    """
    temporary, replaced = final.with_name(f".tmp-{final.name}"), final.with_name(f".replaced-{final.name}")
    with full_disk_is_an_answer(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (temporary, replaced):
            _remove(leftover)
        try:
            temporary.mkdir()
            yield temporary
            for path in [*temporary.rglob("*"), temporary]:
                sync(path)
        except BaseException:
            _remove(temporary)
            raise
        if final.exists():
            final.rename(replaced)
        temporary.rename(final)
        sync(final.parent)
        _remove(replaced)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that holds either all of `content` or what it held before. Raises DiskFull."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_file(final: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes its place at `final` when the block ends, and is removed when it raises. As above."""
    temporary = final.with_name(f".tmp-{final.name}")
    with full_disk_is_an_answer(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.unlink(missing_ok=True)
            with temporary.open("xb") as file:  # not through a link that somebody put there
                yield file
            sync(temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(final)
        sync(final.parent)


@contextmanager
def full_disk_is_an_answer(path: Path) -> Iterator[None]:
    """Turn a lack of space into DiskFull, which says how much is free and what to do."""
    try:
        yield
    except Exception as error:
        reason = _no_room(error)
        if reason is None:
            raise
        raise DiskFull(
            f"{path}: could not be written: {reason} ({_free_mb(path):,.0f} MB free); what was complete before is "
            "kept: make room and run the same command again, without --from and --fresh"
        ) from error


def passing_folder(kind: str, run: Path, place: Path | None = None) -> tempfile.TemporaryDirectory[str]:
    """A folder for what a run hands on, in `place` or among temporary files, that goes with the process.

    Those that killed processes of the same run left are removed, so the caller holds the run.
    """
    place = place or Path(tempfile.gettempdir())
    of_run = hashlib.sha256(f"{platform.node()}:{run.resolve()}".encode()).hexdigest()[:16]
    prefix = f"grpo-{kind}-{of_run}-"
    for leftover in place.glob(f"{prefix}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=prefix, dir=place)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _no_room(error: BaseException) -> str | None:
    """Say why there is no room, or None for another kind of error.

    safetensors names the system's error in its own text; torch, saving to an open file, raises while handling it.
    """
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return _NO_ROOM[error.errno]
    for number, reason in _NO_ROOM.items():
        if f"(os error {number})" in str(error):
            return reason
    return _no_room(error.__context__) if error.__context__ else None


def _free_mb(path: Path) -> float:
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(existing).free / 2**20


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
