"""Check what the wheel and the source distribution named on the command line hold."""

import sys
import tarfile
import zipfile
from pathlib import PurePath

FOLDERS = {"modellock_jax", "LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff"}
MADE = {"PKG-INFO", "pyproject.toml", ".gitignore"}
NEEDED = {
    ".whl": ["py.typed", "cli/app.py", "licenses/LICENSE", "METADATA", "entry_points.txt"],
    ".gz": ["py.typed", "cli/app.py", "/LICENSE", "PKG-INFO", "SECURITY.md"],
}


def names(path: str) -> list[str]:
    """List the files of a distribution; those of a source distribution without its own folder."""
    if path.endswith(".whl"):
        return zipfile.ZipFile(path).namelist()
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


for path in sys.argv[1:]:
    found = names(path)
    info = {name.split("/")[0] for name in found if ".dist-info/" in name}
    others = {name.split("/")[0] for name in found} - FOLDERS - MADE - info
    missing = [
        end
        for end in NEEDED[PurePath(path).suffix]
        if not any(f"/{n}".endswith(end) for n in found)
    ]
    if others or missing or (path.endswith(".whl") and len(info) != 1):
        sys.exit(f"{PurePath(path).name} holds {sorted(others)} and lacks {missing}")
    print(f"{PurePath(path).name}: {len(found)} files")
