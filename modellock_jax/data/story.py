"""A story of our own, a character a token, for models of language."""

import numpy as np

from modellock_jax.data.data import Data

__all__ = ["TEXT", "story", "stretches"]

_LENGTH, _STRIDE = 32, 8

TEXT = """\
the keeper of the keys lived in the old tower by the sea. every morning the keeper went down the \
stairs, one hundred and twenty of them, and opened the doors of the town. the baker had a door, \
and the smith had a door, and the school had a door with a bell. there was a key for every door, \
and every key hung on its own nail, and the keeper knew the nails as the baker knew the ovens.

one night a storm came from the north. the wind took the shutters and the rain took the stairs, \
and in the morning all the keys lay in the grass under the tower, four hundred keys in the wet \
grass. the keeper sat down beside them and did not know which was which.

try them all, said the baker, who wanted to bake. so the keeper took the first key and went to \
the first door, and it did not turn. the keeper took the second key, and it did not turn. by \
noon the keeper had tried a hundred keys on one door, and the door was still shut, and the bread \
was not baked.

there must be a better way, said the smith, who had made the keys. look at the teeth. a key for \
a heavy door has long teeth, and a key for a light door has short ones. so they put the long \
teeth to the left and the short teeth to the right, and then there were only a few keys left to \
try on every door.

but the school had a door with a bell, and the key of the school had teeth like no other. the \
smith had made it by night, with closed eyes, so that no one could make it again, not even the \
smith. they looked for it in the grass, and they looked for it in the well, and they did not \
find it.

break the door, said the baker. but the door was made of oak, and the lock was made of iron, and \
who breaks the lock breaks the bell. the children stood before the door and were glad, for there \
was no school that day.

then a child came with a shell in her hand. i found this on the beach, she said, and there is a \
key in it. the keeper took the key to the door of the school, and the key turned, and the bell \
rang, and all the other children looked at the girl with the shell and said nothing at all.

since that day the keeper of the keys writes a number on every key and the same number on every \
nail. and when the wind comes from the north, the keeper sits by the window and counts, one for \
the baker, two for the smith, three for the school, until the storm is over and the sea is \
still.

the baker asked what would happen if a thief came and read the numbers. then the thief would \
know the nail, said the keeper, and the nail would tell the door. so the keeper wrote the \
numbers anew, in an order that no one else knew, and kept the order in a small book, and kept \
the small book under the pillow.

and if the pillow is stolen, asked the smith. then i shall not sleep, said the keeper, and who \
does not sleep can watch the tower. they laughed, and the sea was still, and the keys hung on \
their nails, and every door in the town was open until the evening.

in the evening the keeper went up the stairs, one hundred and twenty of them, and shut the doors \
of the town. the baker had a door, and the smith had a door, and the school had a door with a \
bell. the keeper turned every key and hung it on its own nail, and looked at the sea, and went \
to sleep.
"""


def story() -> Data:
    """Cut the story into stretches of 32 characters, and give after each character the one that follows.

    A token is a character's place among those of the text, in the order of their code points. The last
    fifth is for testing; training stretches overlap.

    Returns:
        Tokens and those that follow, int32 `[N, 32]` each.

    >>> data = story()
    >>> data.train_x.shape[1:], data.classes, data.task
    ((32,), 26, 'next_token')
    >>> bool((data.train_x[:, 1:] == data.train_y[:, :-1]).all())
    True
    """
    alphabet = sorted(set(TEXT))
    tokens = np.array([alphabet.index(letter) for letter in TEXT], np.int32)
    split = len(tokens) * 4 // 5
    train_x, train_y = stretches(tokens[:split], _LENGTH, _STRIDE)
    test_x, test_y = stretches(tokens[split:], _LENGTH, _LENGTH)
    return Data(train_x, train_y, test_x, test_y, len(alphabet), "next_token")


def stretches(tokens: np.ndarray, length: int, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into stretches, and give after each token the one that follows.

    Args:
        tokens: int32 `[N]`, more than `length` of them.
        length: Tokens of a stretch, at least 1.
        stride: From the beginning of one to that of the next, at least 1.

    Returns:
        Tokens and those that follow, int32 `[stretches, length]` each.

    >>> stretches(np.arange(8), 3, 4)[1].tolist()
    [[1, 2, 3], [5, 6, 7]]
    """
    rows = np.lib.stride_tricks.sliding_window_view(tokens, length + 1)[::stride]
    return rows[:, :-1].copy(), rows[:, 1:].copy()
