"""One training a folder."""

import os
import re
import signal
import socket
import threading

import pytest

from gan_backbones.utils.locks import FolderInUseError, folder_lock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    run = tmp_path / "run"
    locked, tell = os.pipe()
    first = os.fork()
    if first == 0:
        try:
            with folder_lock(run):
                os.write(tell, b"!")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(locked, 1) == b"!"
    message = f"{run} is in use by process {first} on {socket.gethostname()} since 20"
    with pytest.raises(FolderInUseError, match=f"^{re.escape(message)}"), folder_lock(run):
        pass
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    with folder_lock(run):
        pass


def try_in_a_thread(folder):
    """Whether another thread gets the lock."""
    refused = []

    def try_it():
        try:
            with folder_lock(folder):
                pass
        except FolderInUseError as error:
            refused.append(str(error))

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    assert all(f"process {os.getpid()}" in message for message in refused)
    return not refused


def test_a_second_thread_is_refused_and_nested_calls_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folder_lock(tmp_path):
        with folder_lock("."):
            assert not try_in_a_thread(tmp_path)
        assert not try_in_a_thread(tmp_path)
    assert try_in_a_thread(tmp_path)


def test_an_error_releases_it(tmp_path):
    with pytest.raises(KeyError), folder_lock(tmp_path):
        raise KeyError
    assert try_in_a_thread(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), folder_lock(tmp_path / "file"):
        pass
