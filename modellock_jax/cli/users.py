"""`issue`, `register`, `revoke`: a locked copy for each user, who has which, and who has none now."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from modellock_jax.cli import folders, paths
from modellock_jax.cli.app import USERS, app
from modellock_jax.cli.choosing import Choice, KeyFile
from modellock_jax.cli.inputs import (
    DryRun,
    Json,
    on_files,
    progress,
    say_memory,
    show,
    tell,
)
from modellock_jax.cli.paths import In
from modellock_jax.vault import threats
from modellock_jax.vault.errors import VaultError
from modellock_jax.vault.issuing import register, revocation
from modellock_jax.vault.keys import identity
from modellock_jax.vault.keys.secret import Secret

__all__ = ["book", "issue", "list_", "revoke"]

book = typer.Typer(no_args_is_help=True, help="Who has which copy, under which key.")
app.add_typer(book, name="register", rich_help_panel=USERS)


@app.command(rich_help_panel=USERS)
@on_files
def issue(
    source: In,
    output: Annotated[Path, typer.Argument(help="The folder for the copies and the users' keys.")],
    user: Annotated[list[str], typer.Option("--user", help="A user's name; repeat it.")],
    book: Annotated[Path, typer.Option("--register", help="The register; made if there is none.")],
    scheme: Annotated[str, typer.Option(help="The lock, as in `lock`.")] = "stream_lock",
    key: KeyFile = None,
    again: Annotated[
        bool, typer.Option("--reissue", help="Another copy and key for users who have one.")
    ] = False,
    revoke: Annotated[
        Path | None,
        typer.Option("--revoke", help="With --reissue: put the old keys on this revocation list."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Lock a copy for each user under a key of their own, USER.KEYID.safetensors and USER.KEYID.key.

    Of a folder each gets a locked set, USER.KEYID.set.
    """
    from modellock_jax.vault.issuing.copies import issue, unfinished

    secret = _signer(key, book, register.read)
    with paths.reading(source) as given:
        data = paths.hold_in_memory(given)
        of_folder = source.is_dir()
        total = (folders.size_of(source) if of_folder else paths.size_of(given)) * len(user)
        say_memory(scheme, folders.largest(source) if of_folder else paths.size_of(given))
    with progress("issuing", total) as done:
        issued = issue(
            data, output, user, secret, book, scheme, again=again, revocations=revoke, done=done
        )
    lines = [f"{one.entry.user}: {one.copy}, opened by {one.key}" for one in issued]
    made = register.read(book)
    lines.append(
        f"{book}: {len(issued)} lines more, signed by {secret.id}; its head is {made.head}"
    )
    left = unfinished(output, user, made)
    lines += [
        f"{path}: in no line of {book}, left by a command that was cut off or by lines that were "
        "lost; do not give it out"
        for path in left
    ]
    found = [
        one.entry._asdict() | {"copy_file": str(one.copy), "key_file": str(one.key)}
        for one in issued
    ]
    tell(as_json, lines, issued=found, head=made.head, unfinished=list(map(str, left)))


@book.command("list")
@on_files
def list_(
    file: Annotated[Path, typer.Argument(help="A register.")],
    signed_by: Annotated[
        Path | None, typer.Option("--signed-by", help="The issuer's public key file.")
    ] = None,
    head: Annotated[
        str, typer.Option("--head", help="A head of it that you remember: tells a cut-off end.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check every line of a register, and show who has which key."""
    public = identity.load_public_key(signed_by) if signed_by else None
    found = register.read(file, public, head)
    keys = {entry.key for entry in found.current.values()}
    lines = [
        f"{one.number}  {one.time}  {one.user}  {one.key}  {one.scheme}"
        + ("" if one.key in keys else "  superseded")
        for one in found.entries
    ]
    by = "as asked" if public else "which nothing here vouches for: see --signed-by"
    lines.append(f"{len(found.entries)} copies; signed by {found.signer.id}, {by}")
    lines.append(f"head {found.head}: remember it, since only --head tells a cut-off end")
    show(
        as_json,
        lines,
        id=found.id,
        signer=found.signer.id,
        entries=[one._asdict() | {"superseded": one.key not in keys} for one in found.entries],
        head=found.head,
    )


@app.command(rich_help_panel=USERS)
@on_files
def revoke(
    file: Annotated[Path, typer.Argument(help="The revocation list; made if there is none.")],
    ids: Annotated[list[str] | None, typer.Argument(help="Key ids, as inspect shows them.")] = None,
    reason: Annotated[str, typer.Option(help="Why, in one line; everybody can read it.")] = "",
    newer: Annotated[
        Path | None,
        typer.Option("--from", help="Take over this newer list instead; an older one is refused."),
    ] = None,
    key: KeyFile = None,
    as_json: Json = False,
    dry_run: DryRun = False,
) -> None:
    """Have our tools refuse keys, wherever this signed list is present. It takes nothing back."""
    if newer is not None:
        if ids or reason or dry_run:
            raise ValueError("--from takes over a list as it is; give it alone")
        made, new = revocation.update(file, newer), []
    else:
        before = revocation.read(file).ids if file.exists() else set()
        made = revocation.revoke(
            file, ids or [], _signer(key, file, revocation.read), reason, dry_run=dry_run
        )
        new = sorted(made.ids - before)
    tell(
        as_json,
        [
            f"{file}: number {made.serial} of {made.signer.id}, {len(made.revoked)} keys "
            f"{'would be' if dry_run else 'are'} refused, {len(new)} of them new",
            f"What it cannot do: {threats.COMMANDS['revoke'].not_protected}",
        ],
        serial=made.serial,
        signer=made.signer.id,
        revoked=[one._asdict() for one in made.revoked],
        new=new,
        cannot=threats.COMMANDS["revoke"].not_protected,
        written=not dry_run,
    )


def _signer(key: Path | None, path: Path, read: Callable[[Path], Any]) -> Secret:
    """Return the key that has signed a register or a list so far; for a new one the first there is."""
    try:
        before = read(path).signer.id
    except VaultError:  # it is told when the file is written to
        return Choice(key).first()
    return Choice(key).of([before])
