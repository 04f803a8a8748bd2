"""Folders: what is in one, whether a model's index agrees with it, and new ones that are whole."""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from modellock_jax import _temporary
from modellock_jax._atomic import need_directory, sync_directory
from modellock_jax._printing import printable
from modellock_jax.vault import _sources
from modellock_jax.vault._json import strict_json
from modellock_jax.vault.errors import Unreadable
from modellock_jax.vault.sealed._content import directory_of

INDEX = ".safetensors.index.json"
LONGEST_INDEX, LONGEST_PATH, MOST_FILES = 2**26, 1000, 50_000


class Found(NamedTuple):
    """What is in a folder: its files' paths below it, with `/`, sorted; and its empty folders'."""

    files: tuple[str, ...]
    empty: tuple[str, ...]

    @property
    def hidden(self) -> list[str]:
        """The files whose name, or whose folder's, begins with a dot."""
        return [path for path in self.files if any(one[0] == "." for one in path.split("/"))]


def walk(folder: str | os.PathLike[str]) -> Found:
    """Find all files below a folder, hidden ones too.

    Raises `Unreadable` for what is neither file nor folder, for links to folders or out of the folder,
    and for names that cannot be written on one line.
    """
    root, files, empty = Path(os.path.realpath(folder)), [], []
    for at, folders, names in os.walk(root, onerror=_raise):
        below = Path(at).relative_to(root).as_posix()
        for name in (*folders, *names):
            path = name if below == "." else f"{below}/{name}"
            if printable(path, LONGEST_PATH) != path or "\\" in path:
                raise Unreadable(f"{printable(path)}: a name that cannot be shown; rename it")
            _check_kind(root, path)
            if name in names:
                files.append(path)
        if not folders and not names and below != ".":
            empty.append(below)
    if len(files) > MOST_FILES:
        raise Unreadable(f"{printable(folder)} has more than {MOST_FILES} files; seal parts of it")
    return Found(tuple(sorted(files)), tuple(sorted(empty)))


def _raise(error: OSError) -> None:
    raise error


def _check_kind(root: Path, path: str) -> None:
    found = root / path
    if found.is_symlink():
        target = Path(os.path.realpath(found))
        if not target.is_relative_to(root) or not target.is_file():
            raise Unreadable(
                f"{printable(path)} is a link that leads out of the folder, to a folder or nowhere; put "
                "what it stands for in its place (cp -rL)"
            )
    mode = found.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise Unreadable(f"{printable(path)} is a pipe or a device, which no set holds; remove it")


def check_paths(files: Collection[str], empty: Collection[str]) -> None:
    """Refuse paths of a manifest that would lead elsewhere or be two things. Raises `ValueError`."""
    every = [*files, *empty]
    for path in every:
        proper = isinstance(path, str) and printable(path, LONGEST_PATH) == path != ""
        if not proper or "\\" in path or str(PurePosixPath(path)) != path:
            raise ValueError("has a path that is none")
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError("has a path that leads out of the folder")
    above = {str(one) for path in every for one in PurePosixPath(path).parents}
    if len(set(every)) != len(every) or above & set(every):
        raise ValueError("has a path that is there twice, or is both file and folder")


def check_indexes(folder: str | os.PathLike[str], files: Collection[str]) -> None:
    """Hold each index of a sharded model to its shards. Raises `Unreadable`, and names the fault."""
    for index in (path for path in files if path.endswith(INDEX)):
        beside, stem = PurePosixPath(index).parent, PurePosixPath(index).name.removesuffix(INDEX)
        shards = _shards(Path(folder) / index, index)
        for shard, listed in shards.items():
            if str(beside / shard) not in files:
                raise Unreadable(f"{index} names {printable(shard)}, which is not there")
            with _sources.open_reader(Path(folder) / beside / shard) as reader:
                there = {tensor.name for tensor in directory_of(reader).tensors}
            for names, why in (
                (listed - there, "does not have"),
                (there - listed, "has, and the index does not say so"),
            ):
                if names:
                    raise Unreadable(
                        f"{index} and {shard} disagree: {len(names)} tensors that the shard {why}, "
                        f"such as {printable(min(names))}"
                    )
        numbered = re.compile(re.escape(str(beside / stem)) + r"-\d{5}-of-\d{5}\.safetensors")
        for path in files:
            if numbered.fullmatch(path) and PurePosixPath(path).name not in shards:
                raise Unreadable(
                    f"{path} is a shard that {index} does not name; remove one of them"
                )


def _shards(path: Path, shown: str) -> dict[str, set[str]]:
    with open(path, "rb") as file:
        data = file.read(LONGEST_INDEX + 1)
    found: dict[str, set[str]] = {}
    try:
        weights = strict_json(data)["weight_map"]
        for tensor, shard in weights.items():
            if not isinstance(shard, str) or "/" in shard:
                raise ValueError("names no file beside it")
            found.setdefault(shard, set()).add(tensor)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Unreadable(f"{shown} is not an index of a sharded model; mend or remove it") from None
    return found


@contextlib.contextmanager
def creating_folder(path: str | os.PathLike[str], mode: int = 0o755) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path`, which is absent or empty, at the end.

    `mode` is lessened by the umask. Raises `FileExistsError`, `FileNotFoundError`, `OSError`.

    **Guarantees.** After an exception `path` is as it was and nothing is left. A killed process may
    leave `.modellock-*.tmp` beside it, for its owner's eyes alone, which `doctor` finds.
    """
    target = Path(os.path.abspath(path))
    check_new_folder(target)
    with _temporary.folder_in(target.parent) as temp:
        yield temp
        for at, _, _ in os.walk(temp):
            sync_directory(Path(at))
        os.umask(umask := os.umask(0o077))
        os.chmod(temp, mode & 0o777 & ~umask | 0o700)
        _temporary.finish(temp, lambda: os.rename(temp, target))
    sync_directory(target.parent)


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """Refuse what is there already, but for an empty folder. Raises `FileExistsError`."""
    target = Path(path)
    need_directory(target)
    if target.is_symlink() or (os.path.lexists(target) and not target.is_dir()):
        raise FileExistsError(f"{printable(target)} is there and no folder; choose another name")
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(
            f"{printable(target)} is there and not empty; a folder is never replaced: choose another"
        )


def check_same(
    folder: Path, files: Collection[str], known: Callable[[str], bool]
) -> tuple[list[str], list[str]]:
    """Which of `files` are missing in a folder, and what else is there but what `known` names.

    Raises `OSError`.
    """
    there, other = set(), []
    for at, folders, names in os.walk(folder, onerror=_raise):
        below = Path(at).relative_to(folder).as_posix()
        for name in (*folders, *names):
            path = name if below == "." else f"{below}/{name}"
            mode = os.lstat(folder / path).st_mode
            if stat.S_ISREG(mode) and path in files:
                there.add(path)
            elif not stat.S_ISDIR(mode) and not known(path):
                other.append(path)
        if not folders and not names and below != ".":
            other.append(below)
    return sorted(set(files) - there), sorted(other)
