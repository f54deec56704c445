"""However the writing of a replay buffer ends, the file that was there before is whole, or the new one is."""

import io
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.acer.sequences import B, make_buffer, plain, saved_file


class Full(io.BytesIO):
    """A disk that is full after so many bytes."""

    def write(self, data):
        if self.tell() > 1000:
            raise OSError(28, "No space left on device")
        return super().write(data)


def test_a_write_that_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    before = saved_file(tmp_path / "file.npz")
    full = np.lib.format.write_array

    def fail(file, array, *arguments, **named):
        full(file, array, *arguments, **named)
        if array.dtype == np.bool_:  # some parts are written, some are not
            raise OSError(28, "No space left on device")

    for module in (np.lib.format, getattr(np.lib, "_format_impl", np.lib.format)):
        monkeypatch.setattr(module, "write_array", fail)
    with pytest.raises(OSError, match="No space left"):
        saved_file(tmp_path / "file.npz", n_added=5)
    assert [path.name for path in tmp_path.iterdir()] == ["file.npz"]
    buffer = make_buffer()
    buffer.load(tmp_path / "file.npz")
    assert [plain(buffer.get(np.full(B, slot)), env) for slot in range(2) for env in range(B)] == before


def test_open_files_are_written_directly(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        saved_file(file)
        assert not file.closed and [path.name for path in tmp_path.iterdir()] == ["file"]
    make_buffer().load(tmp_path / "file")
    with pytest.raises(OSError, match="No space left"):
        saved_file(Full())


KILLED = """
    import os, signal, sys
    import numpy as np
    from tests.acer.sequences import make_buffer, make_sequences, ACTIONS, VECTOR

    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent does with it
    buffer = make_buffer()
    for seed in range(5):
        buffer.add(make_sequences(VECTOR, ACTIONS["discrete"], seed))
    savez = np.savez

    def killed(file, **arrays):
        savez(file, **dict(list(arrays.items())[:3]))
        file.flush()
        os.kill(os.getpid(), int(sys.argv[2]))

    np.savez = killed
    buffer.save(sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_killed_while_it_saves_leaves_the_old_file(number, tmp_path):
    before = saved_file(tmp_path / "file.npz")
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "file.npz"), str(int(number))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path) + os.pathsep + os.getcwd()
    }
    ended = subprocess.run(command, env=environment, stderr=subprocess.PIPE, timeout=120, check=False)
    assert ended.returncode in (-number, 1, 130) and (ended.returncode < 0 or b"KeyboardInterrupt" in ended.stderr)
    buffer = make_buffer()
    buffer.load(tmp_path / "file.npz")
    assert [plain(buffer.get(np.full(B, slot)), env) for slot in range(2) for env in range(B)] == before
