"""A file is whole, the old one or the new one; a link in its place leads nowhere else."""

import errno
import os

import pytest

from support.checkpoints import write_checkpoint
from support.errors import WrongInput
from support.files import lock, write_file
from support.snapshots import write_snapshot

NAMES = {
    "text": ("x.txt", "x.partial.txt"),
    "snapshot": ("x-1.h5", "x-1.partial.h5"),
    "checkpoint": ("checkpoint.npz", "checkpoint.partial.npz"),
}


@pytest.fixture
def write(kind, model, tmp_path, monkeypatch):
    """Writes the file of a kind into an empty directory; gives what is then in it."""
    monkeypatch.chdir(tmp_path)
    filename, _ = NAMES[kind]

    def call():
        if kind == "text":
            write_file(filename, b"ne", b"w")
        elif kind == "snapshot":
            write_snapshot(filename, model)
        else:
            write_checkpoint("", {})
        return (tmp_path / filename).read_bytes()

    return call


@pytest.mark.parametrize("is_partial", [False, True])
@pytest.mark.parametrize("kind", NAMES)
def test_a_link_is_replaced_and_what_it_leads_to_stays_as_it_is(kind, is_partial, write, tmp_path):
    expected = write()
    filename, _ = names = NAMES[kind]
    os.remove(filename)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    os.symlink(victim, names[is_partial])
    assert write() == expected
    assert not os.path.islink(filename)
    assert sorted(os.listdir()) == sorted([filename, "victim"])
    assert victim.read_text() == "precious"

    os.remove(filename)
    os.symlink(tmp_path / "nowhere", names[is_partial])
    assert write() == expected
    assert sorted(os.listdir()) == sorted([filename, "victim"])


@pytest.mark.parametrize("fails", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("kind", NAMES)
def test_a_file_that_cannot_be_written_stays_as_it_was(kind, fails, write, tmp_path, monkeypatch):
    filename, partial = NAMES[kind]
    (tmp_path / filename).write_text("old")
    (tmp_path / partial).write_text("left by a kill")

    def refuse(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fails, refuse)
    with pytest.raises(OSError, match=f"{filename} can't be written: No space left on device"):
        write()
    assert os.listdir() == [filename]
    assert (tmp_path / filename).read_text() == "old"


@pytest.mark.parametrize("kind", ["text"])
def test_what_a_kill_has_left_behind_is_replaced(kind, write, tmp_path):
    (tmp_path / "x.partial.txt").write_text("much longer than the new one")
    assert write() == b"new"
    assert os.listdir() == ["x.txt"]


def test_a_directory_is_locked_once(tmp_path):
    locked = lock(tmp_path)
    with pytest.raises(WrongInput, match=f"{tmp_path} is in use by another program"):
        lock(tmp_path)
    locked.release()
    lock(tmp_path).release()
