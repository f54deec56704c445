"""A file is as it was or as it becomes, whatever happens while it is written."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from sb3_trpo_ext.common.files import atomic_file, readable


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(path, data, **arguments):
    with atomic_file(path, **arguments) as file:
        file.write(data)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_new_file_and_one_in_the_place_of_another(as_text, tmp_path):
    path = str(tmp_path / "file") if as_text else tmp_path / "file"
    for data in (b"old", b"new, and longer", b""):
        write(path, data)
        assert contents(tmp_path) == {"file": data}


def test_an_open_file_is_written_directly_and_stays_open(tmp_path):
    with (tmp_path / "file").open("wb") as given:
        with atomic_file(given) as file:
            assert file is given and contents(tmp_path) == {"file": b""}
        assert not given.closed
        with pytest.raises(ValueError, match="writable"), (tmp_path / "file").open("rb") as other, atomic_file(other):
            pass


def test_reading_closes_what_it_opened_and_nothing_else(tmp_path):
    (tmp_path / "file.end").write_bytes(b"data")
    for path in (tmp_path / "file", str(tmp_path / "file.end")):
        with readable(path, suffix="end") as file:
            assert file.read() == b"data"
        assert file.closed
    with (tmp_path / "file.end").open("rb") as given:
        with readable(given, suffix="end") as file:
            assert file is given
        assert not given.closed
    with pytest.raises(FileNotFoundError), readable(tmp_path / "other", suffix="end"):
        pass


def test_until_the_end_the_old_file_is_there(tmp_path):
    write(tmp_path / "file", b"old")
    with atomic_file(tmp_path / "file") as file:
        file.write(b"new")
        file.flush()
        assert (tmp_path / "file").read_bytes() == b"old"
        (beside,) = set(tmp_path.iterdir()) - {tmp_path / "file"}
        assert beside.read_bytes() == b"new" and beside.name.startswith(".sb3_trpo_ext-")
    assert contents(tmp_path) == {"file": b"new"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [{}, {"file": b"old"}])
def test_after_an_exception_the_old_file_is_whole_and_nothing_else_is_there(error, old, tmp_path):
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        with atomic_file(tmp_path / "file") as file:
            file.write(b"half of the n")
            raise error
    assert contents(tmp_path) == old


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_also_when_the_last_steps_fail(fails, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_killed_while_it_writes_leaves_the_old_file(number, tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    program = """
        import signal, sys, time
        from sb3_trpo_ext.common.files import atomic_file, readable
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
        with atomic_file(sys.argv[1]) as file:
            file.write(b"half of the n" * 10**5)
            file.flush()
            print("now", flush=True)
            time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(number)
        assert process.wait(timeout=30) != 0
    left = contents(tmp_path)
    assert left.pop("file") == b"old"
    assert len(left) == (number == signal.SIGKILL), "which alone gives no time to tidy up"
    write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_endings_and_folders_as_stable_baselines3_has_them(tmp_path):
    write(tmp_path / "a", b"1", suffix="npz")
    write(tmp_path / "b.pkl", b"2", suffix="npz")
    assert contents(tmp_path) == {"a.npz": b"1", "b.pkl": b"2"}
    with pytest.warns(UserWarning, match="does not exist. Will create it"):
        write(tmp_path / "new" / "folder" / "c", b"3")
    assert (tmp_path / "new" / "folder" / "c").read_bytes() == b"3"
    with pytest.warns(UserWarning, match="is a folder. Will save instead to .*new_2"):
        write(tmp_path / "new", b"4")
    assert (tmp_path / "new_2").read_bytes() == b"4"


@pytest.mark.skipif(os.name == "nt", reason="permissions and links of POSIX")
def test_permissions_and_links_stay(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write(tmp_path / "new", b"1")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "new").chmod(0o640)
    (tmp_path / "link").symlink_to("new")
    write(tmp_path / "link", b"2")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "new").read_bytes() == b"2"
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", int)() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o400)
    with pytest.raises(PermissionError):
        write(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
def test_what_is_no_regular_file_is_written_directly():
    write(os.devnull, b"1")
    reading, writing = os.pipe()
    write(f"/dev/fd/{writing}", b"2")
    assert os.read(reading, 9) == b"2"
    os.close(reading)
    os.close(writing)
