"""The matrix: whose inputs are whose, what chooses, what a twin is, and what its tables say."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest

from modellock_jax.attacks import ATTACKS, RIGHTS
from modellock_jax.study import _matrix_cases as cases
from modellock_jax.study import _matrix_work as work
from modellock_jax.study import attackers, matrix, matrix_grids, runner
from modellock_jax.study.attackers import ATTACKERS, candidates, exists
from modellock_jax.study.context import subject_of
from modellock_jax.study.store import Rows
from modellock_jax.study.training import PLAIN

pytestmark = pytest.mark.optax
CONFIG = matrix.Config(
    data="digits",
    model="mlp",
    epochs=15,
    batch_size=64,
    locks=("sign_flip", "stream_lock"),
    seeds=2,
    rehearsals=2,
    rehearsal_draws=2,
    pilot_draws=2,
    most_draws=3,
    attackers=("weights", "public_base", "labels-1%", "known_weights", "other_copy"),
)


QUICK = ("fine_tune", "signs_from_base", "average_copies", "deep_lock_known_plaintext")


@contextlib.contextmanager
def few():
    """Few attacks, and few settings of those."""
    settings = {"fine_tune": tuple({"rates": (rate,), "steps": 60} for rate in (1e-4, 5e-3))}
    with pytest.MonkeyPatch.context() as patch, jax.numpy_dtype_promotion("standard"):
        patch.setattr(attackers, "ATTACKS", {name: ATTACKS[name] for name in QUICK})
        patch.setattr(attackers, "SETTINGS", settings)
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("matrix")
    with few():
        return out, runner.run(matrix.STUDY, CONFIG, out)


@pytest.fixture(scope="module")
def context(ran):
    """The same study, with the models that it has trained."""
    return matrix.prepare(CONFIG, ran[1].folder)


def cell(ran, lock, attacker, seed=0):
    return ran[1].rows[f"cell/{lock}/{attacker}/{seed}"]


def test_the_training_set_is_parted_and_test_inputs_are_nobodys():
    whole = cases.split("digits")
    parts = [part[0] for part in (whole.base, whole.fresh, whole.judges)] + [whole.owner.train_x]
    seen = [image.tobytes() for part in parts for image in part]
    assert len(seen) == whole.size == 1438
    held = {image.tobytes() for image in whole.owner.test_x}
    # Digits holds no image twice.
    assert len(set(seen)) == len(seen)
    assert not held & set(seen)
    assert len(whole.owner.train_x) == round(0.75 * whole.size)


def test_every_attacker_has_its_rights_and_no_others(context):
    for name, attacker in ATTACKERS.items():
        if exists(context.subjects["sign_flip"], attacker):
            case = cases.thief(context, "sign_flip", attacker, 0, 0)
            assert set(case.rights) == set(attacker.rights) <= set(RIGHTS), name


def test_fresh_inputs_are_none_of_the_owners(context):
    own = {image.tobytes() for image in context.data.train_x}
    for name, inside in (("labels-1%", False), ("labels-1%-owner", True)):
        x, y = cases.images(context, ATTACKERS[name], 0, 0)
        assert len(x) == len(y) == 14
        assert {np.asarray(image).tobytes() in own for image in x} == {inside}


def test_thief_and_twin_have_the_same_inputs_and_draw_on_their_own(context):
    attacker = ATTACKERS["labels-1%"]
    thieves = [cases.thief(context, "stream_lock", attacker, 0, draw) for draw in (0, 1)]
    twins = [cases.twin(context, PLAIN, attacker, 0, draw) for draw in (0, 1)]
    for a, b in zip(thieves, twins):
        np.testing.assert_array_equal(a.labels[0], b.labels[0])
    assert not np.array_equal(thieves[0].labels[0], thieves[1].labels[0])
    drawn = {jax.random.key_data(case.rng).tobytes() for case in (*thieves, *twins)}
    assert len(drawn) == 4
    assert all(bool(jax.numpy.isnan(leaf).all()) for leaf in jax.tree.leaves(twins[0].locked))


def test_of_the_control_the_thief_is_the_twin_but_for_its_draws(context):
    """So the advantage over it has mean zero, whatever the attack: nothing of the weights is left."""
    attacker = ATTACKERS["labels-1%"]
    thief = cases.thief(context, "stream_lock", attacker, 0, 0)
    twin = cases.twin(context, PLAIN, attacker, 0, 0)
    for choice in ({"attack": "fine_tune", "setting": '{"variant": "new_last", "steps": 20}'},):
        own = work._attack(thief, choice)(thief.labels[0])
        twin.rng, before = thief.rng, work._attack(twin, choice)(thief.labels[0])
        np.testing.assert_array_equal(own, work._attack(twin, choice)(thief.labels[0]))
        assert not np.array_equal(own, before)


def test_both_have_as_much_to_choose_from():
    for attacker in ATTACKERS.values():
        if attacker.twin == "trains":
            twin = candidates("", attacker)
            assert twin == [one for one in candidates("toy", attacker) if one in twin] != []


def test_weak_locks_fall_and_the_control_stands(ran):
    right = cell(ran, "sign_flip", "other_copy")["right_key"]
    assert right > 0.7
    assert cell(ran, "sign_flip", "public_base")["values"][0] > right - 0.1
    for name in ("weights", "known_weights", "other_copy"):
        assert cell(ran, "stream_lock", name)["attack"] == ""
    assert cell(ran, "sign_flip", "labels-1%")["attack"] == "fine_tune"
    gains = np.array(matrix_grids.cells(ran[1].rows)["stream_lock", "labels-1%"].gains)
    assert abs(gains.mean()) < 0.15


def test_a_model_trained_under_its_key_has_one_user_and_no_base():
    shuffled, flipped = (subject_of(text, (8, 8, 1)) for text in ("pixel_shuffle", "sign_flip"))
    nobody = {name for name, one in ATTACKERS.items() if not exists(shuffled, one)}
    assert nobody == {"public_base", "other_copy"}
    assert all(exists(flipped, one) for one in ATTACKERS.values())


def test_a_user_and_a_base_gain_nothing_by_what_they_had(ran):
    found = matrix_grids.cells(ran[1].rows)
    row = cell(ran, "sign_flip", "public_base")
    gain = found["sign_flip", "public_base"].gains[0]
    assert gain == pytest.approx(row["values"][0] - row["idle"])
    assert 0.15 < row["idle"] < row["right_key"]
    row = cell(ran, "sign_flip", "other_copy")
    assert row["idle"] == row["right_key"]


def test_the_control_is_stolen_as_often_as_the_pilot_says(ran):
    pilot = ran[1].rows["pilot/stream_lock"]
    assert np.shape(pilot["thief"]) == np.shape(pilot["twin"]) == (2, 2)
    assert len(cell(ran, "stream_lock", "labels-1%")["values"]) == pilot["draws"]
    assert len(ran[1].rows["twin/plain/labels-1%/0"]["values"]) == pilot["draws"]
    assert len(cell(ran, "sign_flip", "labels-1%")["values"]) == 1


def test_test_inputs_choose_nothing(ran, context, tmp_path):
    """With other answers for truths in the test set, every rehearsal is the same."""
    data = context.data._replace(test_y=(context.data.test_y + 1) % 10)
    other = dataclasses.replace(context, data=data, folder=tmp_path)
    (tmp_path / "models").symlink_to(ran[1].folder / "models")
    for text, name, twin in (("sign_flip", "labels-1%", False), (PLAIN, "labels-1%", True)):
        with few():
            again = work.rehearsal_rows(other, text, name, twin)[0]
        before = ran[1].rows[again["id"]]
        assert again["tried"] == before["tried"]
        assert again["chosen"] == before["chosen"]


def test_the_attack_of_a_cell_is_that_of_its_rehearsal(ran):
    for row in ran[1].rows.of("cell"):
        rehearsed = ran[1].rows[work.rehearsal_id(row["lock"], row["attacker"], False)]
        chosen = rehearsed["tried"][rehearsed["chosen"]] if rehearsed["chosen"] >= 0 else {}
        assert row["attack"] == chosen.get("attack", "")
        assert row["setting"] == chosen.get("setting", "")


def tried(**values):
    """Rehearsed attacks, by name and, after two underscores, setting."""
    return [
        {"attack": name.split("__")[0], "setting": name.partition("__")[2], "values": found}
        for name, found in values.items()
    ]


def test_the_best_of_the_rehearsal_is_chosen(context):
    two = tried(a=[0.5, 0.6], b=[0.9, 0.3, 0.9])
    assert work._choose(context, two, [0.1], {}) == 1
    assert work._choose(context, two, [0.7, 0.8], {}) == -1
    assert work._choose(context, [], [0.1], {}) == -1


def test_a_setting_that_is_better_by_luck_is_not_chosen(context):
    usual = {"attack": "a", "setting": "x"}
    luck = tried(a__x=[0.5, 0.6, 0.5, 0.6], a__y=[0.9, 0.5, 0.6, 0.7])
    assert work._choose(context, luck, [0.1], usual) == 0
    clear = tried(a__x=[0.5, 0.6, 0.5, 0.6], a__y=[0.81, 0.9, 0.8, 0.91])
    assert work._choose(context, clear, [0.1], usual) == 1
    # Another attack, which the twin cannot run, need only be better.
    assert work._choose(context, [*luck, *tried(b=[0.6])], [0.1], usual) == 2
    # Of settings that are worse beyond chance none is taken.
    worse = tried(a__x=[0.81, 0.9, 0.8, 0.91], a__y=[0.5, 0.6, 0.5, 0.6])
    assert work._choose(context, worse, [0.1], usual) == 0


def test_rehearsals_are_on_other_models(ran, context):
    numbers = []
    for unit in matrix.units(context):
        numbers += [need.args[1] for need in unit.needs if need.work is cases.train]
    assert set(numbers) == {0, 1, 2, 3}
    rows = ran[1].rows
    assert (
        {row["seed"] for row in rows.of("cell")}
        == {row["seed"] for row in rows.of("twin")}
        == {0, 1}
    )


def test_no_model_under_study_is_rehearsed_on(ran, context, tmp_path, monkeypatch):
    seen = []

    def steal(context, text, attacker, number, draw, choice):
        seen.append(number)

    monkeypatch.setattr(work, "_stolen", steal)
    monkeypatch.setattr(work, "_copied", steal)
    other = dataclasses.replace(context, folder=tmp_path)
    (tmp_path / "models").symlink_to(ran[1].folder / "models")
    for text, twin in (("sign_flip", False), (PLAIN, True)):
        work.rehearsal_rows(other, text, "labels-1%", twin)
    assert set(seen) == {2, 3}


def test_who_finds_nothing_does_as_who_attacks_nothing(context, monkeypatch):
    monkeypatch.setattr(work, "_stolen", lambda *args: None)
    for name in ("public_base", "labels-1%"):
        (row,) = work.cell_rows(context, "sign_flip", name, 1)
        assert row["values"] == [row["idle"]] != [row["no_key"]]
        assert row["gave_up"] == 1


def test_a_run_goes_on_where_it_stopped(ran):
    out, store = ran
    before = dict(store.rows)
    (store.folder / "rows.jsonl").unlink()
    left = [row for row in before.values() if row["kind"] != "cell"]
    (store.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in left))
    with few():
        again = runner.run(matrix.STUDY, CONFIG, out).rows
    drop = lambda row: {k: v for k, v in row.items() if k != "seconds"}  # noqa: E731
    assert {k: drop(v) for k, v in again.items()} == {k: drop(v) for k, v in before.items()}


def test_the_tables_say_who_was_not_attacked(ran):
    brief, least, whole, control = matrix_grids.grids(ran[1].rows, CONFIG)
    lines = {line[0]: dict(zip(brief.header, line)) for line in brief.rows}
    assert lines["stream_lock"]["a plain leaf"] == "none of 1"
    assert lines["stream_lock"]["weights alone"] == "no attack"
    assert lines["sign_flip"]["a public base"].startswith(lines["sign_flip"]["right key"])
    said = {line[0]: line[1] for line in least.rows}
    assert said["stream_lock"].startswith("stands: ")
    assert said["sign_flip"] in {ATTACKERS[name].has for name in CONFIG.attackers}
    assert {line[0] for line in control.rows} == {"labels, 1 %"}
    rows = Rows({key: row for key, row in ran[1].rows.items() if "/stream_lock/other" not in key})
    brief = matrix_grids.grids(rows, CONFIG)[0]
    assert dict(zip(brief.header, brief.rows[1]))["others' copies"] == "no such attacker"
    assert len(whole.rows) == sum(one.attacked for one in matrix_grids.cells(ran[1].rows).values())


def test_each_thief_stands_beside_the_twin_of_its_model_and_draw():
    about = {"lock": "a", "attacker": "labels-1%", "attack": "fine_tune", "idle": 0.1}
    rows = Rows()
    for seed, (mine, twins) in enumerate([([0.5], [0.25, 0.9]), ([0.5, 0.75], [0.25, 0.5])]):
        rows[f"c{seed}"] = {"kind": "cell", **about, "seed": seed, "values": mine}
        rows[f"t{seed}"] = {**about, "kind": "twin", "lock": PLAIN, "seed": seed, "values": twins}
    assert matrix_grids.cells(rows)["a", "labels-1%"].gains == [0.25, 0.25]
    del rows["t0"], rows["t1"]
    assert matrix_grids.cells(rows)["a", "labels-1%"].gains == pytest.approx([0.4, 0.525])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seeds": 1}, "2 seeds"),
        ({"rehearsals": 1}, "2 models or more"),
        ({"attackers": ("ghost",)}, "no attacker 'ghost'"),
    ],
)
def test_settings_that_do_not_fit(changed, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        matrix.prepare(dataclasses.replace(CONFIG, **changed), tmp_path)
