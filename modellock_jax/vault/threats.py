"""What each command on files and keys protects against, and what it cannot do."""

from typing import NamedTuple

__all__ = ["COMMANDS", "OLD_HEAD", "Threat"]


class Threat(NamedTuple):
    """Of a command, in sentences."""

    protects: str
    not_protected: str
    broken: str


OLD_HEAD = (
    "A head is replaced and not revoked: whoever kept the file as it was can put its first bytes back, "
    "and with them the old date, recipients and signatures. To rule that out, give the content another "
    "key with `rotate`, and destroy the old file."
)
"""What rewriting a file's head cannot do, and the remedy."""

COMMANDS: dict[str, Threat] = {
    "seal": Threat(
        "Somebody who has the file, or can write another in its place, and no recipient's key: names, "
        "shapes, types and values are encrypted and authenticated (AES-256-GCM).",
        "In the open: the size, the name and serial number, the recipients' key ids, the expiry date "
        "and the signers. A recipient can keep and pass on what they opened.",
        "No.",
    ),
    "sets": Threat(
        "Somebody who puts a folder together from files of several releases, leaves one out, adds or "
        "renames one: a sealed or locked folder opens whole and as it was, or not at all. Sealed, one "
        "signature, name and serial number are the whole folder's.",
        "The files' paths and sizes, and how many there are, lie open. In a locked folder what is no "
        "safetensors file is a plain copy, which is checked and not hidden. An older release passes "
        "unless the opener says which they expect (--expect), as with single files.",
        "No.",
    ),
    "recipients": Threat(
        "The file's key is wrapped for each recipient: HPKE (RFC 9180) with X25519 and ML-KEM-768, or "
        "X25519 alone, which a future quantum computer could read from a copy kept today; or a "
        "passphrase by Argon2id (RFC 9106), which is as strong as the passphrase.",
        "Anyone who can open a file can rewrite it for others: require a signature where that matters. "
        "Removing a recipient takes nothing back: not what they opened, and not the file. "
        + OLD_HEAD,
        "No.",
    ),
    "rotate": Threat(
        "A former recipient who kept the old file's key, or its old head: the new file has another key.",
        "They still have the old file and what was in it.",
        "No.",
    ),
    "expire": Threat(
        "Our tools do not open the file after its date, which nobody without the file's key can write "
        "anew.",
        "Other programs, and a clock set back, do not care: a date is a reminder, not a lock. "
        + OLD_HEAD,
        "By design it binds only tools that obey it.",
    ),
    "revoke": Threat(
        "Our tools refuse a key that is on a signed list, wherever that list is present: named by "
        "--revoked or $MODELLOCK_REVOKED, or lying beside the file. Nobody else can make, extend or "
        "shorten a list of the issuer's, and a damaged one is an error.",
        "It takes nothing back: who copied the file's key or the plain values keeps them, and copies "
        "that are offline open as before. An opener without the list, or with an old one, is not told; "
        "other programs do not look. Whoever can write beside a file can have it refused: "
        "of a file that nobody signed everybody's list counts, and beside a signed one another's is an "
        "error. To lock somebody out of the next version, rotate or "
        "issue again, and leave them out.",
        "By design it binds only tools that obey it.",
    ),
    "sign": Threat(
        "Somebody who puts another model in the file's place, recipients included: Ed25519 and "
        "ML-DSA-65 over the head, its name and serial number, and the digests of all chunks, both of "
        "which must hold. What is read afterwards is checked against those digests, too, so a file that "
        "is changed while it is open is noticed.",
        "Only an opener who asks for the signature (--signed-by) is protected, and only one who says "
        "which name and serial number they expect (--expect) from an older file of the same signer. "
        "A name that nobody signed is the word of the recipients.",
        "No.",
    ),
    "issue": Threat(
        "Each user's copy is locked under a key of their own, derived one way from the issuer's and "
        "fresh random bytes: one user's key opens no other's copy, and no two copies have one key, even "
        "where the register was cut, copied or put back from a backup. The register says who has which, "
        "and a line in it that is changed, removed or put elsewhere is noticed, since lines are signed "
        "and chained.",
        "Users can compare what they opened, and a leaked plain model does not say whose it was. Lines "
        "cut off the register's end are noticed only by who remembers its head; the users' names lie "
        "open in it. Whoever has the issuer's key has every user's. What the copy's own lock is worth "
        "is said under its name.",
        "See the lock that is used.",
    ),
    "backup": Threat(
        "Loss of a key: any k of n shares (SLIP-39) restore it, and fewer tell nothing about it "
        "(a checksum lets a guess at all of it be tested, as its id does); `drill` proves that they do.",
        "Each share is a secret: k of them, with the passphrase if there is one, are the key. Old "
        "shares stay good when the same key is split again: to shut a holder out, change the key. A "
        "passphrase only delays whoever has k shares (PBKDF2). The package shamir-mnemonic takes, in "
        "its own words, no care of side channels: split and join where nobody else runs programs.",
        "No.",
    ),
    "keygen": Threat(
        "32 bytes from the operating system; every use has its own key by HKDF-SHA256 (RFC 5869). A key "
        "derived with --from tells nothing about the key above it, or those beside it.",
        "The key file is not encrypted: whoever reads it, or a backup of it, has the key, and every key "
        "below it.",
        "No.",
    ),
}
"""By name of the command."""
