"""Which directories can change a file, and what counts as a change."""

import asyncio

import pytest

from app.watch import Watch, directories_of


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
        watch = Watch(lambda: changes.put_nowait(None))
        watch.aim({folder})
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
        watch = Watch(lambda: changes.put_nowait(None))
        watch.aim({tmp_path})
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
        watch = Watch(lambda: changes.put_nowait(None))
        watch.aim({first, tmp_path / "absent"})
        watch.aim({second})
        (first / "m").write_text("x")
        await asyncio.sleep(0.2)
        assert changes.empty()
        (second / "m").write_text("x")
        await asyncio.wait_for(changes.get(), 10)
        watch.close()
        return changes.qsize()

    assert asyncio.run(told()) == 0
