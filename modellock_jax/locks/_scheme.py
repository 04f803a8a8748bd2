"""The record of a lock: all that is said of it anywhere, beside its factory."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from modellock_jax.core.lock import Key, Lock, Params

Shape = tuple[int, ...]
Change = Callable[[str, int, Any], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Break:
    """One way in which a lock was broken.

    Attributes:
        how: What the attacker needs and gets, in half a sentence without numbers, which are in the
            rows that studies keep under the attack's name.
        attack: The attack's name in `attacks.ATTACKS`, or "" where only others have shown it.
        source: Who published it, as "author, year".
    """

    how: str
    attack: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.how or not (self.attack or self.source):
            raise ValueError("Break: say how, and name the attack or who published it")

    @property
    def by(self) -> str:
        """The attack, or else who published it."""
        return f"`{self.attack}`" if self.attack else self.source

    def __str__(self) -> str:
        after = f", after {self.source}" if self.attack and self.source else ""
        return f"{self.how} ({self.by}{after})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """That a lock can lock files, and which tensors it takes.

    In a file a lock meets the tensors as a dict by name, values of 64 bits as two uint32, bools as
    uint8; it gets no `loss`, and may finish its key by a public field `nonce` alone.

    Attributes:
        by_axes: Whether it acts along the axes of some leaves, and not on any bytes: those must then
            have an axis and at most 32 bits.
        in_pieces: For a lock whose `decrypt` is its `encrypt`, and changes each entry alone:
            `in_pieces(key, shapes)`, where `shapes` is a tree of the file's shapes and dtypes, gives
            `change(name, first, entries)`, which changes entries of a leaf in place, a NumPy array
            `[N]` that begins at number `first` in C order. None: files are locked in memory.
    """

    by_axes: bool = False
    in_pieces: "Callable[[Key, Params], Change] | None" = None


def new_key(lock: "Lock", rng: "jax.Array", locked: "Params") -> "Key":
    """Guess a key as the owner would draw one.

    Args:
        lock: The lock with its settings.
        rng: A JAX PRNG key.
        locked: The locked parameters, a tree of arrays.

    Returns:
        A key of the lock.
    """
    return lock.init(rng, locked)


def no_settings(shape: Shape) -> dict[str, Any]:
    """Take nothing from the data.

    Args:
        shape: That of one input.

    Returns:
        An empty dict.
    """
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scheme:
    """What studies, attacks, files, the command line and documents know of a lock.

    Attributes:
        name: The name in lock texts, that of the factory.
        factory: `factory(**settings) -> Lock`.
        paper: Author (year) and where, or "ours".
        acts: What it acts on, and how, as in "every byte, by the AES key schedule and S-box".
        trained_under: Whether the model is trained under the key, as of a lock that has `scramble`
            or `mask`; otherwise it is locked after training.
        protects: One sentence, of somebody without the key.
        lies_open: What the attacker has all the same, one sentence.
        near: `near(rng, key) -> key`, the nearest wrong key: one bit or swap off.
        bits: `bits(params, sites, **settings) -> float`, the key space in bits on one model;
            `sites` maps a name to the shape of its pre-activation `[B, ..., C]`.
        bits_of: What `bits` counts where that is not the whole key; "" where it is.
        files: `Files` if it can lock files, otherwise why not and what to use instead: half a
            sentence after "it cannot lock a file: it".
        guess: `guess(lock, rng, locked) -> key`, what an attacker who knows the scheme would try.
        broken: How it was broken, the worst first; () if no way is known.
        wrong_key: Why a wrong key may open the model, half a sentence after "because"; "" if it
            does not.
        twin: The lock that computes the same function and shares the key, by name; "" for none.
        from_data: From the shape of one input, such as `(H, W, C)`, to those settings that the data
            decides.
        study: The text under which a study runs it unless told otherwise; "" for none.
        variants: More texts, which the league and the sweep run before it.

    Raises:
        ValueError: For data that the lock cannot take.
    """

    name: str
    factory: "Callable[..., Lock]"
    paper: str
    acts: str
    trained_under: bool
    protects: str
    lies_open: str
    near: "Callable[[jax.Array, Key], Key]"
    bits: Callable[..., float]
    files: Files | str
    guess: "Callable[[Lock, jax.Array, Params], Key]" = new_key
    broken: tuple[Break, ...] = ()
    wrong_key: str = ""
    bits_of: str = ""
    twin: str = ""
    from_data: Callable[[Shape], dict[str, Any]] = no_settings
    study: str = ""
    variants: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.name.isascii():
            raise ValueError(f"Scheme: a lock's name is an identifier, not {self.name!r}")
        for field in ("paper", "acts", "protects", "lies_open", "files"):
            if not getattr(self, field):
                raise ValueError(f"Scheme {self.name}: `{field}` is empty; say it in a few words")
        if not all(map(callable, (self.factory, self.near, self.bits, self.guess))):
            raise ValueError(f"Scheme {self.name}: factory, near, bits and guess are functions")

    @property
    def locks_files(self) -> bool:
        """Whether it can lock files."""
        return isinstance(self.files, Files)

    @property
    def worth(self) -> str:
        """What it is worth, as far as is known, in half a sentence: the worst way it was broken."""
        return f"BROKEN: {self.broken[0]}" if self.broken else "no attack on it is known"


def flip_one_bit(rng: "jax.Array", key: "Key") -> "Key":
    """Find the nearest wrong key: one bit of the first field, uint32 words, flipped.

    Args:
        rng: A JAX PRNG key, which draws the bit.
        key: A key whose first field is uint32 words.

    Returns:
        A key of the same type.
    """
    # Imported here, because who opens a file under `stream_lock` need not wait for JAX.
    import jax

    words = key[0]
    word_rng, bit_rng = jax.random.split(rng)
    word = jax.random.randint(word_rng, (), 0, words.shape[0])
    bit = jax.random.randint(bit_rng, (), 0, 32).astype(words.dtype)
    flipped = words.at[word].set(words[word] ^ (jax.numpy.uint32(1) << bit))
    return key._replace(**{key._fields[0]: flipped})
