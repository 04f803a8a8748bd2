"""The main job: train, lock with each lock, open with right and wrong keys, and send in the thief."""

import functools
import operator
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from modellock_jax._progress import bar
from modellock_jax.attacks.attack import run as run_attack
from modellock_jax.attacks.weights.fine_tune import fine_tune
from modellock_jax.core.bits import to_uint
from modellock_jax.core.lock import Key, Lock, Params, owner_forward, user_forward
from modellock_jax.flax import sites
from modellock_jax.study.config import Config
from modellock_jax.study.processes import ALONE, Part, wait
from modellock_jax.study.store import Store
from modellock_jax.study.subjects import Bench, Score, Subject, fresh, prepare, rng_for, score
from modellock_jax.tasks import margin_loss, random_shift
from modellock_jax.train import fit

PLAIN = Lock(lambda rng, params: ())


def run(config: Config, out: Path, part: Part = ALONE) -> Store:
    """Run a study, or what an earlier run left of it, and return its rows.

    Every row is kept as soon as it is finished; running again skips finished rows. One of several
    processes (`processes.joined`) computes its `part` of the rows, and process 0 merges them. Raises
    what `prepare` raises, before anything is written, `ValueError` for a folder that does not fit,
    and `ConnectionError` if a process ended that this one waits for.
    """
    bench = prepare(config)
    store = Store(out, config, part)
    train_share(bench, store, [None, *bench.subjects])
    locked: dict[str, list[Params]] = {"scratch": [fresh(bench, s) for s in range(config.seeds)]}
    for subject in bench.subjects:
        locked[subject.text] = _lock(bench, store, subject)
    _steal(bench, store, locked)
    store.finish()
    return store


def trained(bench: Bench, store: Store, subject: Subject | None, seed: int) -> tuple[Params, Key]:
    """A trained model of one seed and the key it was trained under; kept in the run folder."""
    lock = subject.lock if subject is not None and subject.trained_under else PLAIN
    name = _model_name(subject, seed)
    start = fresh(bench, seed)
    key = jax.jit(lock.init)(rng_for(seed, "key"), start)
    params = store.load_params(name, start)
    if params is None:
        c = bench.config
        params, _ = fit(
            functools.partial(owner_forward(lock, bench.model.train), key),
            start,
            bench.data.train_x,
            bench.data.train_y,
            rng=rng_for(seed, "fit"),
            epochs=c.epochs,
            batch_size=c.batch_size,
            learning_rate=c.learning_rate,
            augment=random_shift,
            progress=f"training {name}",
        )
        store.save_params(name, params)
    return params, key


def _model_name(subject: Subject | None, seed: int) -> str:
    under = subject is not None and subject.trained_under
    return f"{subject.text if subject is not None and under else 'plain'}-{seed}"


def train_share(bench: Bench, store: Store, subjects: Sequence[Subject | None]) -> None:
    """Of several processes each trains some of the models of `subjects`, and waits for the others'.

    So every process works on the same bits, whatever machine trained them.
    """
    if store.part.processes == 1:
        return  # each is trained when it is needed
    seeds = range(bench.config.seeds)
    models = {_model_name(subject, seed): (subject, seed) for subject in subjects for seed in seeds}
    for number, (subject, seed) in enumerate(models.values()):
        if store.part.takes(number):
            trained(bench, store, subject, seed)

    def owed() -> set[int]:
        missing = (n for n, name in enumerate(models) if not store.holds_params(name))
        return {number % store.part.processes for number in missing}

    wait(store.folder, owed)


def _lock(bench: Bench, store: Store, subject: Subject) -> list[Params]:
    """Lock the model of every seed, open it with all sorts of keys, and keep a row for each."""
    lock, model = subject.lock, bench.model
    test_x, test_y = jnp.asarray(bench.data.test_x), jnp.asarray(bench.data.test_y)
    sample = jnp.asarray(bench.data.train_x[:512]), jnp.asarray(bench.data.train_y[:512])
    user = user_forward(lock, model.forward)

    @jax.jit
    def encrypt(key: Key, params: Params) -> tuple[Params, Key]:
        return lock.encrypt(
            key, params, lambda p: margin_loss(model.forward(p, sample[0]), sample[1])
        )

    @jax.jit
    def user_score(key: Key, locked: Params) -> Score:
        return score(lambda x: user(key, locked, x), test_x, test_y)

    decrypt = jax.jit(lock.decrypt)

    def key_score(key: Key, locked: Params) -> Score:
        # Without a part in the forward, the user's is the plain one on what decrypt gives.
        if subject.trained_under:
            return user_score(key, locked)
        return bench.score(decrypt(key, locked))

    c, spec = bench.config, subject.spec
    guess = jax.jit(jax.vmap(spec.guess, (0, None)))
    pairs, owned, plain = [], [], []
    for seed in range(c.seeds):
        params, key = trained(bench, store, subject, seed)
        if not subject.trained_under:
            key = jax.jit(lock.init)(rng_for(seed, "key"), params)
        pairs.append(encrypt(key, params))
        owned.append(params)
        plain.append(trained(bench, store, None, seed)[0])
    for seed, (locked, key) in enumerate(pairs):
        row_id = f"lock/{subject.text}/{seed}"
        if not store.takes(row_id):
            continue
        guesses = guess(jax.random.split(rng_for(seed, "wrong"), c.wrong_keys), locked)
        wrong = [jax.tree.map(operator.itemgetter(i), guesses) for i in range(c.wrong_keys)]
        near = jax.jit(spec.near)(rng_for(seed, "near"), key)
        keys = [key, near, *(k for _, k in pairs), *wrong]
        found = [key_score(k, locked) for k in keys]
        accuracy = [float(one.accuracy) for one in found]
        non_finite = [float(one.non_finite) for one in found]
        none = bench.score(locked)
        opened = decrypt(key, locked)
        first_key = jax.jit(lock.init)(rng_for(seed, "key"), owned[seed])
        store.add(
            {
                "id": row_id,
                "kind": "lock",
                "lock": subject.text,
                "scheme": subject.scheme,
                "seed": seed,
                "trained_under": subject.trained_under,
                "plain": float(bench.score(plain[seed]).accuracy),
                "right": accuracy[0],
                "right_is_plain": not subject.trained_under
                and bool((bench.logits(opened) == bench.logits(plain[seed])).all()),
                "near": accuracy[1],
                "cross": accuracy[2 : 2 + c.seeds],
                "wrong": accuracy[2 + c.seeds :],
                "wrong_non_finite": sum(non_finite[2 + c.seeds :]) / c.wrong_keys,
                "none": float(none.accuracy),
                "none_non_finite": float(none.non_finite),
                "prior": float(jnp.bincount(test_y).max() / len(test_y)),
                "key_bits": spec.bits(owned[seed], sites(model.forward, owned[seed], test_x[:1])),
                "changed": int(_changed(locked, owned[seed])),
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(locked)),
                "encrypt_s": _seconds(encrypt, first_key, owned[seed]),
                "decrypt_s": _seconds(decrypt, key, locked),
            }
        )
    return [locked for locked, _ in pairs]


@jax.jit
def _changed(locked: Params, params: Params) -> jax.Array:
    differ = jax.tree.map(lambda a, b: (to_uint(a) != to_uint(b)).sum(), locked, params)
    return jax.tree.reduce(jnp.add, differ)


def _seconds(function: Callable[..., Any], *args: Any) -> float:
    """The best of three runs, or of one that is long, of a function that has been compiled."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 0.5:
        start = time.perf_counter()
        jax.block_until_ready(function(*args))
        taken.append(time.perf_counter() - start)
    return min(taken)


def _steal(bench: Bench, store: Store, locked: dict[str, list[Params]]) -> None:
    """The fine-tuning thief on every locked model, and on fresh weights, for each budget and rate."""
    c, n = bench.config, len(bench.data.train_x)
    d = bench.data
    data = tuple(jnp.asarray(a) for a in (d.train_x, d.train_y, d.test_x, d.test_y))

    @jax.jit
    def steal(rng: jax.Array, state: Any, size: jax.Array, rate: jax.Array, data: Any) -> jax.Array:
        """Test accuracies on the way, [thief_scores]; size and rate are traced: one program."""
        x, y, test_x, test_y = data
        attack = fine_tune(bench.model, rate, bench.data.train_x)
        data_rng, order_rng, shift_rng = jax.random.split(rng, 3)
        mine = jax.random.permutation(data_rng, n)
        per_score = c.thief_steps // c.thief_scores
        shape = (c.thief_scores, per_score, c.thief_batch)
        index = mine[jax.random.randint(order_rng, shape, 0, size)]
        shifts = jax.random.split(shift_rng, shape[:2])

        def stretch(state: Any, batch: Any) -> tuple[Any, jax.Array]:
            index, shifts = batch
            images = jax.vmap(random_shift)(shifts, x[index])
            state, _ = run_attack(attack, state, (images, y[index]))
            return state, score(lambda x: attack.forward(state, x), test_x, test_y).accuracy

        return lax.scan(stretch, state, (index, shifts))[1]

    todo = [
        (name, seed, budget, rate)
        for name in locked
        for seed in range(c.seeds)
        for budget in c.budgets
        for rate in c.thief_rates
    ]
    with bar() as shown:
        task = shown.add_task("the thief", total=len(todo))
        for name, seed, budget, rate in todo:
            row_id = f"thief/{name}/{seed}/{budget}/{rate}"
            if store.takes(row_id):
                size = jnp.int32(max(1, round(budget * n)))
                # The same images for every lock of a seed: the rows compare locks, not draws.
                thief_rng, init_rng = jax.random.split(rng_for(seed, "thief"))
                attack = fine_tune(bench.model, rate, bench.data.train_x)
                state = attack.init(init_rng, locked[name][seed])
                curve = steal(thief_rng, state, size, jnp.float32(rate), data)
                store.add(
                    {
                        "id": row_id,
                        "kind": "thief",
                        "lock": name,
                        "seed": seed,
                        "budget": budget,
                        "images": int(size),
                        "rate": rate,
                        "curve": curve.tolist(),
                        "best": float(curve.max()),
                    }
                )
            shown.advance(task)
