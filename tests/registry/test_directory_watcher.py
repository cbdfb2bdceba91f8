"""Which directories can change a file, and what counts as a change."""

import asyncio
import subprocess
import sys

import pytest

from app.registry.directory_watcher import DirectoryWatcher, directories_of
from tests.conftest import ROOT


def test_the_directories_of_a_file(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/m").touch()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/m").symlink_to("../link/b/m")
    assert directories_of(tmp_path / "a/b/m") == {tmp_path / "a/b"}
    assert directories_of(tmp_path / "link/b/m") == {tmp_path, tmp_path / "a/b"}
    assert directories_of(tmp_path / "link/m") == {tmp_path, tmp_path / "a", tmp_path / "a/b"}
    assert directories_of(tmp_path / "a") == {tmp_path / "a"}
    assert directories_of(tmp_path / "absent/too/m") == {tmp_path}
    (tmp_path / "round").symlink_to("round")
    assert tmp_path in directories_of(tmp_path / "round/m")


@pytest.mark.parametrize("what", ["rename", "write", "link", "delete", "directory gone"])
def test_a_change_is_told_once(tmp_path, what):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    (tmp_path / "new").touch()

    async def told() -> int:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        watch.set_paths({folder})
        match what:
            case "rename":
                (tmp_path / "new").rename(folder / "new")
            case "write":
                (folder / "new").write_text("x")
                (folder / "old").write_text("x")
            case "link":
                (folder / "new").symlink_to("old")
            case "delete":
                (folder / "old").unlink()
            case "directory gone":
                (folder / "old").unlink()
                folder.rmdir()
        await asyncio.wait_for(changes.get(), 10)
        await asyncio.sleep(0.2)
        watch.close()
        return changes.qsize()

    assert asyncio.run(told()) == 0


def test_a_file_that_is_only_opened_is_no_change(tmp_path):
    (tmp_path / "old").write_text("x")

    async def told() -> int:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        watch.set_paths({tmp_path})
        (tmp_path / "old").read_text()
        with (tmp_path / "new").open("w"):
            await asyncio.sleep(0.2)
            found = changes.qsize()
        watch.close()
        return found

    assert asyncio.run(told()) == 0


def test_what_is_not_aimed_at_any_more_is_not_watched(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    async def told() -> int:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        watch.set_paths({first, tmp_path / "absent"})
        watch.set_paths({second})
        (first / "m").write_text("x")
        await asyncio.sleep(0.2)
        assert changes.empty()
        (second / "m").write_text("x")
        await asyncio.wait_for(changes.get(), 10)
        watch.close()
        return changes.qsize()

    assert asyncio.run(told()) == 0


@pytest.mark.parametrize("back", [True, False])
def test_a_folder_that_goes_while_the_paths_are_set_is_told(tmp_path, back):
    """Before the event is read its watch is given up; another folder of that name may be there by then."""
    folder = tmp_path / "folder"
    folder.mkdir()

    async def told() -> bool:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        assert watch.set_paths({folder})
        assert not watch.set_paths({folder})
        folder.rename(tmp_path / "elsewhere")
        if back:
            folder.mkdir()
        assert watch.set_paths({folder})
        await asyncio.wait_for(changes.get(), 10)
        watch.close()
        return changes.empty()

    assert asyncio.run(told())


def test_what_cannot_be_watched_is_awaited_above_it(tmp_path):
    async def told() -> None:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        watch.set_paths({tmp_path / "absent" / "too"})
        (tmp_path / "absent").mkdir()
        await asyncio.wait_for(changes.get(), 10)
        watch.close()

    asyncio.run(told())


@pytest.mark.parametrize("what", ["file", "folder"])
def test_permissions_that_are_given_back_are_told(tmp_path, what):
    (tmp_path / "m").touch()

    async def told() -> None:
        changes = asyncio.Queue()
        watch = DirectoryWatcher(lambda: changes.put_nowait(None))
        watch.set_paths({tmp_path})
        (tmp_path / "m" if what == "file" else tmp_path).chmod(0o700)
        await asyncio.wait_for(changes.get(), 10)
        watch.close()

    asyncio.run(told())


MOUNTED = """
import asyncio, subprocess, sys
from pathlib import Path
from app.registry.directory_watcher import DirectoryWatcher

async def told():
    changes, folder = asyncio.Queue(), Path(sys.argv[1])
    watch = DirectoryWatcher(lambda: changes.put_nowait(None))
    watch.set_paths({folder})
    subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
    await asyncio.wait_for(changes.get(), 10)
    watch.set_paths({folder})
    (folder / "m").write_text("x")
    await asyncio.wait_for(changes.get(), 10)
    subprocess.run(["umount", folder], check=True)
    await asyncio.wait_for(changes.get(), 10)
    watch.close()
    print("told")

asyncio.run(told())
"""


def test_a_mount_that_comes_late_is_told(tmp_path):
    """In a namespace of its own, where this may be tried."""
    exclusive = ["unshare", "--mount", "--map-root-user"]
    try:
        subprocess.run([*exclusive, "mount", "-t", "tmpfs", "none", tmp_path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing may be mounted here")
    command = [*exclusive, sys.executable, "-c", MOUNTED, tmp_path]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stdout == "told\n", ran.stderr
