"""A local server that speaks Google Cloud Storage: true gs:// paths, without renaming, appending or memory mapping."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from etils import epath

BUCKET = "scav"


@contextlib.contextmanager
def serve() -> Iterator[dict[str, str]]:
    """Serves an empty bucket gs://scav in memory; yields the environment variables that lead clients to it."""
    from gcp_storage_emulator.server import create_server

    server = create_server("localhost", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    server._api._httpd.handle_error = lambda *_: None  # clients hang up before the end of an answer
    try:
        url = f"http://localhost:{server._api._httpd.server_address[1]}"
        yield {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs and Google's client, for epath, Orbax and TensorBoard
            "TENSORSTORE_GCS_HTTP_URL": url,  # Orbax's arrays
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it asks Google itself what kind of bucket this is
        }
    finally:
        server.stop()


def upload(folder: Path, target: str) -> epath.Path:
    """The folder's files as objects below target."""
    for file in (file for file in folder.rglob("*") if file.is_file()):
        (epath.Path(target) / os.fspath(file.relative_to(folder))).write_bytes(file.read_bytes())
    return epath.Path(target)
