"""Files of a run, in a folder or in a bucket: `--workdir=runs/one` or `--workdir=gs://bucket/one`.

A bucket neither renames nor appends nor maps into memory, but an object is there only once its upload is complete. So a
file is written whole or not at all in both: here by renaming, there by itself.
"""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from etils import epath

AnyPath: TypeAlias = Path | epath.Path

_REACH_S = 20.0  # for the first answer of a bucket
_LINES_EVERY_S = 30.0  # a bucket takes about one write a second of an object, and each sends all of it
_CLIENTS = {"aiohttp", "gcsfs", "google", "requests"}


def at(name: str | os.PathLike[str]) -> AnyPath:
    """The file or folder of that name; a bucket is asked once whether it is there.

    ValueError: another scheme than gs://. ImportError: a bucket without gcsfs. OSError: a bucket that cannot be listed.
    """
    scheme, separator, rest = os.fspath(name).partition("://")
    if not separator:
        return Path(name)
    bucket = rest.partition("/")[0]
    if scheme != "gs" or not bucket:
        raise ValueError(f"{name}: expected a local path or gs://bucket/folder")
    _reach(bucket)
    return epath.Path(name)


def in_bucket(path: AnyPath) -> bool:
    """Whether the path is one of Google Cloud Storage, gs://."""
    return not isinstance(path, Path) and str(path).startswith("gs://")


def absolute(path: AnyPath) -> AnyPath:
    """Links followed; what is in a bucket has one name only."""
    return path if in_bucket(path) else path.resolve()


def write_whole(path: AnyPath, content: str | bytes) -> None:
    """Writes the file whole or not at all, in UTF-8, and makes its folder."""
    data = content.encode() if isinstance(content, str) else content
    if in_bucket(path):
        path.write_bytes(data)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Of all processes that come here for this local folder, which is made, one at a time goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # falls with the process that holds it
        yield


class Lines:
    """A text file that begins with `lines`, whole, and grows by more of them.

    Locally each line is there when `add` returns. A bucket gets the whole text anew: at `flush`, at `close`, and from
    `add` where the last time is 30 s ago. A kill loses there what was added since; who flushes before each checkpoint
    loses only lines that the resumed run writes again.
    """

    def __init__(self, path: AnyPath, lines: Iterable[str] = ()):
        self._path = path
        self._text = "".join(f"{line}\n" for line in lines)
        self._file = None
        self.flush()
        if not in_bucket(path):
            self._file = path.open("a", encoding="utf-8")

    def add(self, line: str) -> None:
        if self._file is not None:
            self._file.write(f"{line}\n")
            self._file.flush()
            return
        self._text += f"{line}\n"
        if time.monotonic() - self._written_at > _LINES_EVERY_S:
            self.flush()

    def flush(self) -> None:
        if self._file is None:
            write_whole(self._path, self._text)
            self._written_at = time.monotonic()

    def close(self) -> None:
        self.flush()
        if self._file is not None:
            self._file.close()


def is_bucket_error(error: BaseException) -> bool:
    """Whether a client library of buckets raised it: their errors have no class in common."""
    return type(error).__module__.partition(".")[0] in _CLIENTS


def _reach(bucket: str) -> None:
    """One request without retries: gcsfs by itself tries for more than a minute, and calls a missing bucket empty."""
    try:
        import gcsfs  # noqa: F401
        from google.cloud import storage
    except ImportError as error:
        raise ImportError(f"gs://{bucket}: expected gcsfs, got {error}: pip install scav-jax[gcs]") from error
    try:
        next(iter(storage.Client().list_blobs(bucket, max_results=1, retry=None, timeout=_REACH_S)), None)
    except Exception as error:
        if not (is_bucket_error(error) or isinstance(error, OSError)):
            raise
        raise OSError(
            f"gs://{bucket}: expected a bucket that can be listed, got {' '.join(str(error).split())}; check its name, "
            "the network and your credentials (gcloud auth application-default login)"
        ) from error
