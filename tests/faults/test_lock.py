"""One run writes a folder: a second one is refused and told by whom; a stale lock is recognised."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE

import pytest
from conftest import LIMIT, ROOT, wait_until

from paddle_adaptseg.core.errors import DataError, StorageError, TrainingError
from paddle_adaptseg.training import lock
from paddle_adaptseg.training.lock import NAME, RunLock
from paddle_adaptseg.training.run import fit


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "PATIENCE", 0.6)


def test_a_second_run_is_refused_with_the_pid_and_start_time_of_the_first(trainer, tiny, tmp_path):
    first = trainer("run", options=("schedule.horizon=9000", "schedule.stop=9000"))
    first.wait_for("step 1/9000")
    holder = json.loads((tmp_path / "run" / NAME).read_text())
    assert holder["pid"] == first.pid
    with pytest.raises(TrainingError) as error:
        fit(tiny(), resume="latest")
    assert f"(pid {first.pid} on {holder['host']}, since {holder['started']})" in str(error.value)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    with RunLock(tmp_path / "run") as taken:
        assert taken.note == f"the lock of a run that is gone (pid {first.pid}) was removed"
    assert not (tmp_path / "run" / NAME).exists()


def write(folder, **holder):
    folder.mkdir(exist_ok=True)
    (folder / NAME).write_text(json.dumps({"host": "h", "started": "then", **holder}))


def test_a_number_that_another_process_has_now_is_no_reason_to_wait(tmp_path):
    write(tmp_path, pid=os.getpid(), began="1", machine=lock._machine())
    with RunLock(tmp_path):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_torn_lock_is_stale(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def to_itself(path):
    path.symlink_to(path.name)


def to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


ODD = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to a pipe": to_a_pipe,
    "a link to itself": to_itself,
    "a link to nothing": lambda path: path.symlink_to("absent"),
}


@pytest.mark.parametrize("kind", ODD)
def test_a_lock_that_no_run_wrote_is_refused_in_one_line_and_left_alone(trainer, tmp_path, kind):
    path = tmp_path / "run" / NAME
    path.parent.mkdir()
    ODD[kind](path)
    error = trainer("run").wait().error
    assert f"'{path}' is no lock file of a run" in error and "remove it" in error
    assert os.path.lexists(path)


def test_a_lock_replaced_by_a_link_to_itself_ends_the_run_that_held_it(tmp_path):
    with RunLock(tmp_path) as held:
        (tmp_path / NAME).unlink()
        to_itself(tmp_path / NAME)
        with pytest.raises(StorageError, match="is no lock file of a run"):
            held.confirm()


def test_a_lock_of_another_machine_is_stale_when_it_does_not_beat(tmp_path, capsys):
    write(tmp_path, pid=1, began="1", machine="elsewhere")
    began = time.monotonic()
    with RunLock(tmp_path):
        assert time.monotonic() - began >= 0.6
    assert "watching for" in capsys.readouterr().out


def test_a_lock_of_another_machine_that_beats_is_respected(tmp_path, monkeypatch):
    write(tmp_path, pid=1, began="1", machine="elsewhere")
    monkeypatch.setattr(lock, "PATIENCE", LIMIT)
    over = threading.Event()

    def beat():
        while not over.wait(0.05):
            os.utime(tmp_path / NAME)

    threading.Thread(target=beat, daemon=True).start()
    with pytest.raises(TrainingError, match=r"another run writes to .* \(pid 1 on h, since then\)"), RunLock(tmp_path):
        pass
    over.set()
    assert (tmp_path / NAME).exists()


def test_a_held_lock_beats_and_notices_that_it_was_taken(tmp_path):
    with RunLock(tmp_path) as held:
        before = (tmp_path / NAME).stat().st_mtime_ns
        wait_until(lambda: (tmp_path / NAME).stat().st_mtime_ns > before, "a beat")
        held.confirm()
        write(tmp_path, pid=1)
        with pytest.raises(TrainingError, match="was taken over by another run"):
            held.confirm()
    assert (tmp_path / NAME).exists()  # it is the other's


def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path):
    write(tmp_path, pid=2**22 + 1, began="1", machine=lock._machine())
    code = (
        "import sys; from pathlib import Path\n"
        "from paddle_adaptseg.training.lock import RunLock\n"
        "from paddle_adaptseg.core.errors import TrainingError\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "try:\n"
        "    with RunLock(Path(sys.argv[1])): print('mine', flush=True); sys.stdin.readline()\n"
        "except TrainingError: print('refused', flush=True)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1, cwd=ROOT) for _ in range(6)]
    assert [run.stdout.readline() for run in runs] == ["ready\n"] * 6
    for run in runs:
        run.stdin.write("go\n")
    said = [run.stdout.readline() for run in runs]  # the one that has the folder keeps it until all have answered
    for run in runs:
        run.communicate("done\n")
    assert sorted(said) == ["mine\n"] + ["refused\n"] * 5


@pytest.mark.parametrize("links", [True, False])
def test_a_lock_appears_with_its_text_also_where_there_are_no_hard_links(tmp_path, monkeypatch, links):
    def link(draft, path):
        assert json.loads(Path(draft).read_text())["pid"] == os.getpid() and not Path(path).exists()
        if not links:
            raise OSError(errno.EPERM, "no links here")
        real(draft, path)

    real = os.link
    monkeypatch.setattr(os, "link", link)
    with RunLock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / "lock.json").read_text())["pid"] == os.getpid()
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock.json"]


def test_a_run_that_is_refused_leaves_no_folder(tiny, tmp_path):
    with pytest.raises(DataError):
        fit(tiny("toy/source_only", "data.source.root=absent"))
    assert not (tmp_path / "run").exists()
