"""What the rows of the main study have."""

from typing import Annotated

from modellock_jax.study.rows import Valued

__all__ = ["LockRow", "ThiefRow"]


class LockRow(Valued):
    """One lock on the model of one seed: what opens it."""

    lock: Annotated[str, "the lock's text"]
    scheme: Annotated[str, "its scheme"]
    seed: Annotated[int, "the seed of the model and the key, from 0"]
    trained_under: Annotated[bool, "whether the key acts in training"]
    plain: Annotated[float, "test value of the model without any lock"]
    right: Annotated[float, "with the right key"]
    right_is_plain: Annotated[
        bool, "whether every answer then equals the plain model's, bit for bit"
    ]
    near: Annotated[float, "with a key that is one bit or swap off"]
    cross: Annotated[list[float], "with the key of each seed's model; the right one among them"]
    wrong: Annotated[list[float], "with each of the wrong keys"]
    wrong_non_finite: Annotated[
        float, "share of inputs with an answer that is not finite, mean over wrong keys"
    ]
    none: Annotated[float, "without a key"]
    none_non_finite: Annotated[
        float, "share of inputs with an answer that is not finite, without a key"
    ]
    prior: Annotated[
        float,
        "what no knowledge reaches: of classes, the share of the most frequent",
    ]
    key_bits: Annotated[float, "bits of the key that act on this model"]
    changed: Annotated[int, "weights that encryption changed"]
    parameters: Annotated[int, "weights of the model"]
    encrypt_s: Annotated[float, "seconds of encryption, compiled"]
    decrypt_s: Annotated[float, "seconds of decryption, compiled"]


class ThiefRow(Valued):
    """One fine-tuning thief of one model, budget and learning rate."""

    lock: Annotated[str, 'the lock\'s text, or "scratch": fresh weights']
    seed: Annotated[int, "the seed of the model and of the thief's draws, from 0"]
    budget: Annotated[float, "the thief's share of the training set, in (0, 1]"]
    images: Annotated[int, "how many inputs that is"]
    rate: Annotated[float, "learning rate"]
    curve: Annotated[list[float], "test value at each stop"]
    best: Annotated[float, "the best of them"]
