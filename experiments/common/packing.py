"""Packs directories and files, to send them from one computer to another."""

import io
import os
import tarfile
from pathlib import Path

from support.checkpoints import CHECKPOINT
from support.files import write_file


def pack(path):
    """Packs a file, or the directory of a run, into a tar archive without the folders above.

    Args:
        path: of the file or directory.

    Returns:
        Its bytes.
    """
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, os.path.basename(path))
    return archive.getvalue()


def unpack(packed, folder):
    """Unpacks what was packed; if that is interrupted, the checkpoint of a run is still whole.

    Args:
        packed: what `pack` returned, bytes.
        folder: where it is to be; files of an earlier checkpoint may be there.

    Raises:
        OSError: a file can't be written.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        files = [member for member in tar if member.isfile()]
        for file in sorted(files, key=lambda file: os.path.basename(file.name) == CHECKPOINT):
            path, content = Path(folder, file.name), tar.extractfile(file).read()
            path.parent.mkdir(exist_ok=True)
            old = path.read_bytes() if path.is_file() else b""
            is_log = "tfevents" in path.name and not path.is_symlink()
            if is_log and content.startswith(old):  # TensorBoard may be reading it
                with open(path, "ab") as events:
                    events.write(content[len(old) :])
                    events.flush()
                    os.fsync(events.fileno())
            elif content != old:
                write_file(path, content)
