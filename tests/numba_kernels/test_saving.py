"""Saving: a file is the old one or the new one, whole, and stays what it was otherwise."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from numba_kernels.files import replace_file


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_new_files_have(tmp_path):
    (tmp_path / "other").write_bytes(b"")
    assert replace_file(tmp_path / "new", b"new").read_bytes() == b"new"
    assert mode_of(tmp_path / "new") == mode_of(tmp_path / "other")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o666])
def test_mode_and_owner_are_kept(tmp_path, mode):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    path.chmod(mode)
    owner = (1234, 5678) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    replace_file(path, b"new")
    assert path.read_bytes() == b"new" and mode_of(path) == mode
    assert (path.stat().st_uid, path.stat().st_gid) == owner


def test_what_only_its_owner_may_read_is_never_read_by_others(tmp_path, monkeypatch):
    path, seen = tmp_path / "model", []
    path.write_bytes(b"old")
    path.chmod(0o600)
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append(stat.S_IMODE(os.fstat(handle).st_mode)))
    replace_file(path, b"new")
    assert seen[0] == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_links_are_followed_and_stay(tmp_path, exists):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    link.symlink_to("folder/target")
    if exists:
        target.write_bytes(b"old")
    assert replace_file(link, b"new") == link
    assert link.is_symlink() and target.read_bytes() == b"new" and list(tmp_path.iterdir()).count(link) == 1


def test_read_only_files_are_left_alone(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match="read-only; make it writeable, or write to another file"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_names_may_be_as_long_as_the_system_lets_them(tmp_path):
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    replace_file(path, b"one")
    assert replace_file(path, b"two").read_bytes() == b"two"


def test_file_and_folder_are_brought_to_disk_in_order(tmp_path, monkeypatch):
    path, done = tmp_path / "model", []

    def fsync(handle):
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        done.append(("folder" if is_folder else "file", path.exists(), is_folder or os.fstat(handle).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    replace_file(path, b"new")
    assert done == [("file", False, 3), ("folder", True, True)]


def test_pipes_are_written_to(tmp_path):
    reader, writer = os.pipe()
    replace_file(f"/dev/fd/{writer}", b"new")
    assert os.read(reader, 9) == b"new"
    os.close(reader), os.close(writer)


WRITER = """
    import os, sys, time
    from pathlib import Path
    from numba_kernels import files
    path = Path(sys.argv[1])
    if sys.argv[2] == "hang":
        os.fsync = lambda handle: (print("writing", flush=True), time.sleep(60))
        files.replace_file(path, b"c" * 100)
    if sys.argv[2] == "limit":
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            files.replace_file(path, b"c" * 5000)
        except OSError as error:
            print(type(error).__name__)
    while sys.argv[2] == "again":
        for letter in (b"a", b"b"):
            files.replace_file(path, letter * 300_000)
            print("saved", flush=True)
"""


def writer(path, what):
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = replace_file(tmp_path / "model", b"old")
    with writer(path, "hang") as process:
        assert process.stdout.readline() == "writing\n"
        replace_file(path, b"new")
        assert len(names(tmp_path)) == 2
        process.kill()
    replace_file(path, b"newer")
    assert names(tmp_path) == ["model"] and path.read_bytes() == b"newer"


def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path):
    path = replace_file(tmp_path / "model", b"a" * 300_000)
    for moment in range(5):
        with writer(path, "again") as process:
            process.stdout.readline()
            time.sleep(0.003 * moment)
            process.send_signal(signal.SIGKILL)
        assert path.read_bytes() in (b"a" * 300_000, b"b" * 300_000)
    replace_file(path, b"last")
    assert names(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = replace_file(tmp_path / "model", b"old")
    with writer(path, "limit") as process:
        assert process.stdout.readline() == "OSError\n"
    assert path.read_bytes() == b"old" and names(tmp_path) == ["model"]
