"""How much of a sign key a reading has right."""

import jax
import numpy as np

from modellock_jax.attacks.keys.signs_from_weights import SignReading

SUREST = 0.75  # share of the signs


def counted(reading: SignReading, signs: jax.Array) -> dict[str, int]:
    """Count the signs that some layer has, those right, all negated or not, and surest ones wrong."""
    used = np.flatnonzero(reading.certainty)
    same = np.asarray(reading.signs == signs)[used]
    same = same if same.mean() > 0.5 else ~same
    surest = np.argsort(reading.certainty[used])[-round(SUREST * len(used)) :]
    wrong = int((~same[surest]).sum())
    return {"in_use": len(used), "signs_right": int(same.sum()), "surest_wrong": wrong}
