"""Folders that appear whole or not at all, and what is left where a process was killed while it wrote one."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines import whole_folders
from data_pipelines.whole_folders import new_folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write(out: Path, text: str = "whole", **options: bool) -> None:
    with new_folder(out, **options) as folder:
        (folder / "file").write_text(text)


def killed(out: Path, *, alone: bool, at: str = "") -> None:
    """Another process that writes to `out` is killed, while it writes or before it calls so of `os`."""
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from data_pipelines.whole_folders import new_folder\n"
        "out, alone, at = Path(sys.argv[1]), sys.argv[2] == 'True', sys.argv[3]\n"
        "def die(*arguments):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "with new_folder(out, replace=True, alone=alone) as folder:\n"
        "    (folder / 'file').write_text('of the killed')\n"
        "    if at == 'between':\n"
        "        rename = Path.rename\n"
        "        Path.rename = lambda path, to: rename(path, to) if to.name == 'old' else die()\n"
        "    else:\n        die()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out), str(alone), at], timeout=60)
    assert done.returncode == -9


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_killed_process_left_goes_with_the_next(tmp_path, alone):
    out = tmp_path / "data" / "out"
    killed(out.with_name("out.b"), alone=alone)
    (other,) = names_in(out.parent)
    killed(out, alone=alone)
    (left,) = set(names_in(out.parent)) - {other}
    assert left.startswith(".out.unfinished")
    (out.parent / ".out.mine").mkdir()
    (out.parent / f"{left}.bak").mkdir()
    write(out, alone=alone)
    assert names_in(out) == ["file"]
    assert names_in(out.parent) == sorted([".out.mine", f"{left}.bak", other, "out"]), "of others nothing is touched"


def test_what_a_live_process_is_writing_stays(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as slow:
        (slow / "file").write_text("slow")
        write(out, "quick")
        assert (slow / "file").read_text() == "slow"
    assert (out / "file").read_text() == "quick"
    assert names_in(tmp_path) == ["out"]
    with new_folder(out, replace=True, alone=True) as slow:
        with pytest.raises(FileExistsError, match=r"\.out\.unfinished: another process is writing to out; wait for it"):
            write(out, replace=True, alone=True)
        (slow / "file").write_text("slow")
    assert (out / "file").read_text() == "slow"
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_lost_between_the_two_renames(tmp_path, alone):
    out = tmp_path / "out"
    write(out, "old")
    killed(out, alone=alone, at="between")
    assert names_in(tmp_path) != ["out"]
    assert not out.exists()
    with pytest.raises(RuntimeError), new_folder(out, replace=True, alone=alone):
        raise RuntimeError
    assert (out / "file").read_text() == "of the killed"
    assert names_in(tmp_path) == ["out"]


def test_a_process_killed_before_it_had_its_lock_is_told_too(tmp_path):
    (tmp_path / ".out.unfinished").mkdir()
    (tmp_path / ".out.unfinished-0123abcd").mkdir()
    write(tmp_path / "out", alone=True)
    assert names_in(tmp_path) == ["out"]


@pytest.mark.parametrize(("module", "call"), [(os, "open"), (whole_folders.fcntl, "flock")])
def test_a_folder_that_looks_dead_before_it_is_locked_is_given_up_for_another(tmp_path, monkeypatch, module, call):
    out, real, taken = tmp_path / "out", getattr(module, call), []

    def late(*arguments, **options):
        if not taken:
            taken.append(arguments)
            write(out, "quick")  # sees a folder without a lock, or a lock that nobody holds
        return real(*arguments, **options)

    monkeypatch.setattr(module, call, late)
    write(out, "slow", replace=True)
    assert taken
    assert (out / "file").read_text() == "slow"
    assert names_in(tmp_path) == ["out"]


def test_without_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    killed(tmp_path / "out", alone=True)

    def no_lock(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(whole_folders.fcntl, "flock", no_lock)
    with pytest.raises(FileExistsError, match="remove that folder if there is none"):
        write(tmp_path / "out", alone=True)
    write(tmp_path / "out")
    assert names_in(tmp_path) == [".out.unfinished", "out"]


def write_while_another_does(out: Path) -> None:
    with new_folder(out, alone=True) as folder:
        (folder / "file").write_text("mine")
        out.mkdir()
        (out / "file").write_text("theirs")


def test_what_has_been_filled_meanwhile_stays(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(FileExistsError, match="out: something else has filled it meanwhile"):
        write_while_another_does(out)
    assert (out / "file").read_text() == "theirs"
    assert names_in(tmp_path) == ["out"]
