"""What each lock and each command protects against, what broke it, and what it cannot do."""

from modellock_jax.locks import SCHEMES, Scheme
from modellock_jax.vault.threats import COMMANDS

__all__ = ["explain", "lock_table", "names", "page"]

_OWN_USER = "Whoever runs the opened model holds its plain weights."
_FIRST = (
    "# Threat model\n\n"
    "Printed by `modellock-jax explain`. The attacker always holds the file, knows the scheme, "
    "the architecture and this code, and has some data, and does not have the key. Out of scope "
    "everywhere: whoever uses the opened model, code in the same process, a machine under the "
    "attacker's control, side channels, and traces in memory and swap.\n\n"
    "A *research lock* changes weights so that a file still loads as a model, or is trained into it; "
    "most are broken, and the page says by what. A name such as `fine_tune` is an attack of this "
    "package: `modellock-jax attack NAME --lock LOCK` runs it, and what it reaches on which model is in "
    "the rows of that name in `results/league/`. *Standard cryptography* comes from the `cryptography` "
    "package and keeps its promises as far as its primitives do; nothing here was audited by others.\n"
)


def explain(name: str) -> str:
    """Give the threat model of a lock or a command as Markdown.

    Args:
        name: The name of a lock of `locks.SCHEMES`, or of a command.

    Returns:
        Markdown, which ends with a newline.

    Raises:
        ValueError: If nothing has that name.
    """
    if name in COMMANDS:
        threat = COMMANDS[name]
        return (
            f"## {name} (standard cryptography)\n\n"
            f"- **Protects against:** {threat.protects}\n"
            f"- **Does not protect:** {threat.not_protected}\n"
            f"- **Broken?** {threat.broken}\n"
        )
    if name not in SCHEMES:
        raise ValueError(f"nothing is called {name!r}; there are {', '.join(names())}")
    return _of_lock(SCHEMES[name])


def names() -> list[str]:
    """Give the names of all locks and commands that `explain` knows.

    Returns:
        First the locks, in the table's order.
    """
    return [*SCHEMES, *COMMANDS]


def page() -> str:
    """Give all of it, as the page `docs/threat-model.md`.

    Returns:
        Markdown.
    """
    return "\n".join([_FIRST, *map(explain, SCHEMES), *map(explain, COMMANDS)])


def lock_table() -> str:
    """Give the table of all locks as Markdown: source, where and when each acts, what broke it.

    Returns:
        Markdown, a line for each lock.
    """
    head = ["| lock | source | acts on | when | locks files | broken |", "|" + 6 * " --- |"]
    return "\n".join([*head, *map(_row, SCHEMES.values())])


def _row(scheme: Scheme) -> str:
    cells = [
        f"`{scheme.name}`",
        scheme.paper,
        scheme.acts,
        _when(scheme),
        "yes" if scheme.locks_files else "no",
        f"by {'; '.join(one.by for one in scheme.broken)}" if scheme.broken else "no attack known",
    ]
    return f"| {' | '.join(cells)} |"


def _of_lock(scheme: Scheme) -> str:
    twin = f" Its exact twin, with the same key, is `{scheme.twin}`." if scheme.twin else ""
    files = (
        "It can lock files." if scheme.locks_files else f"It cannot lock a file: it {scheme.files}."
    )
    wrong = f"A wrong key may open it, because {scheme.wrong_key}." if scheme.wrong_key else ""
    lines = [
        f"**Source:** {scheme.paper}.{twin}",
        f"**Acts on** {scheme.acts}; the model is {_when(scheme)}.",
        f"**Protects against:** {scheme.protects}",
        f"**Does not protect:** {scheme.lies_open} {_OWN_USER}",
        f"**Broken?** {_broken(scheme)}",
        f"**Wrong keys:** {wrong}" if wrong else "",
        f"**Files:** {files}",
    ]
    body = "".join(f"- {line}\n" for line in lines if line)
    return f"## {scheme.name} (research lock)\n\n{body}"


def _when(scheme: Scheme) -> str:
    return "trained under the key" if scheme.trained_under else "locked after training"


def _broken(scheme: Scheme) -> str:
    if not scheme.broken:
        return "No attack on it is known."
    ways = "; ".join(map(str, scheme.broken))
    return f"Yes. {ways[0].upper()}{ways[1:]}."
