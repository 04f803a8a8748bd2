"""Everything that touches secrets on the host: keys from the operating system and their files."""

import os

if os.name != "posix":
    raise ImportError(
        "modellock_jax.vault needs a POSIX system, such as Linux or macOS: it keeps keys private by "
        "file modes and replaces files by POSIX renames; on Windows use WSL"
    )
