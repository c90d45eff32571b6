import pickle

import gymnasium as gym
import numpy as np
import pytest
from edits import IDS, make, make_vec, plain, sampled

LIMIT = 4
KINDS = ["single", "NextStep", "SameStep", "Disabled"]
every_kind = pytest.mark.parametrize("kind", KINDS)
every_id = pytest.mark.parametrize("env_id", IDS)


def environment(env_id, backbone, kind="single", rows=3, **options):
    """A single environment, or a vector environment that resets as ``kind`` says."""
    options = {"start": "lacks_target", "directions": "attributes", **options}
    if "Goal" not in env_id:
        options = {"identity_weight": 0.3, **options}
    if kind == "single":
        return make(env_id, backbone, **options).unwrapped
    return make_vec(env_id, backbone, rows, LIMIT, autoreset_mode=kind, **options)


def go_on(env, actions, taken):
    """What steps return, with resets where they are due, after ``taken`` steps."""
    results = []
    for action in actions:
        results.append(plain(env.step(action)))
        taken += 1
        if taken % LIMIT == 0 and isinstance(env, gym.Env):  # nobody truncates a bare environment
            results.append(plain(env.reset()))
        elif taken % LIMIT == 0 and env.autoreset_mode.value == "Disabled":
            mask = results[-1][2] | results[-1][3]
            results.append(plain(env.reset(options={"reset_mask": mask})))
    return results


@every_id
@every_kind
@pytest.mark.parametrize("taken", [0, 3, LIMIT])
def test_goes_on_as_if_nothing_had_happened(tiny_file, env_id, kind, taken):
    env = environment(env_id, tiny_file, kind)
    actions = sampled(env, taken + 2 * LIMIT + 1)
    env.reset(seed=5)
    go_on(env, actions[:taken], 0)
    state = env.get_state()
    pickled = pickle.dumps(state)
    expected = go_on(env, actions[taken:], taken)
    np.testing.assert_equal(state, pickle.loads(pickled))  # it was copied

    fresh = environment(env_id, tiny_file, kind)
    used = environment(env_id, tiny_file, kind)
    used.reset(seed=77)
    used.step(actions[0])
    for other, saved in ((env, state), (fresh, pickle.loads(pickled)), (used, state)):
        other.set_state(saved)
        np.testing.assert_equal(other.get_state(), saved)
        np.testing.assert_equal(go_on(other, actions[taken:], taken), expected)
    np.testing.assert_equal(state, pickle.loads(pickled))


@every_id
def test_what_is_not_in_an_observation_comes_back_too(tiny_file, env_id):
    env, other = environment(env_id, tiny_file), environment(env_id, tiny_file)
    env.reset(seed=0)
    for action in sampled(env, 3):
        env.step(action)
    other.set_state(env.get_state())
    np.testing.assert_equal(vars(other.view()), vars(env.view()))
    latents = np.random.default_rng(0).normal(size=(20, 8))
    np.testing.assert_equal(other.score(latents), env.score(latents))
    assert other.view().step == 3


@every_kind
def test_state_is_plain_data(tiny_file, kind):
    def check(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
        if isinstance(value, (dict, list)):
            for part in value.values() if isinstance(value, dict) else value:
                check(part)
        else:
            assert type(value) in (int, float, str) or (
                type(value) is np.ndarray and value.dtype != object and value.base is None
            )

    env = environment("LatentEditPixels-v0", tiny_file, kind)
    env.reset(seed=0)
    check(env.get_state())


@every_kind
def test_there_is_no_state_before_the_first_reset(tiny_file, kind):
    env = environment("LatentEdit-v0", tiny_file, kind)
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before get_state$"):
        env.get_state()


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


def changed(state, key, value):
    return {**state, key: value}


def core(state, **changes):
    return {**state, "core": {**state["core"], **changes}}


def overflowing(random):
    if isinstance(random, list):
        return [overflowing(one) for one in random]
    return {**random, "state": {"state": -1, "inc": 2**200}}


BROKEN = {
    "none": lambda s: None,
    "list": lambda s: [s],
    "empty": lambda s: {},
    "no core": lambda s: without(s, "core"),
    "no random": lambda s: without(s, "random"),
    "no steps": lambda s: without(s, "steps"),
    "more": lambda s: changed(s, "more", 1),
    "odd keys": lambda s: changed(s, 3, 1),
    "core none": lambda s: changed(s, "core", None),
    "core empty": lambda s: changed(s, "core", {}),
    "core lacks": lambda s: changed(s, "core", without(s["core"], "latents")),
    "core has more": lambda s: core(s, more=np.zeros(1)),
    "core text": lambda s: core(s, latents="text"),
    "core list": lambda s: core(s, wanted=[1.0]),
    "core shape": lambda s: core(s, judged=s["core"]["judged"][:, :-1]),
    "core rows": lambda s: core(s, **{n: v[:0] for n, v in s["core"].items()}),
    "core type": lambda s: core(s, realism=s["core"]["realism"].astype(complex)),
    "random none": lambda s: changed(s, "random", None),
    "random text": lambda s: changed(s, "random", "PCG64"),
    "random number": lambda s: changed(s, "random", 4),
    "random empty": lambda s: changed(s, "random", {}),
    "random empties": lambda s: changed(s, "random", [{}, {}, {}]),
    "random other": lambda s: changed(s, "random", np.random.MT19937(0).state),
    "random others": lambda s: changed(s, "random", [np.random.MT19937(0).state] * 3),
    "random fewer": lambda s: changed(s, "random", list(s["random"])[:2]),
    "steps none": lambda s: changed(s, "steps", None),
    "steps text": lambda s: changed(s, "steps", "three"),
    "return text": lambda s: changed(s, "return" if "return" in s else "ended", "much"),
    "random overflow": lambda s: changed(s, "random", overflowing(s["random"])),
    "steps shape": lambda s: changed(s, "steps", np.zeros(2, dtype=np.int64)),
}


def assert_refused(env, broken):
    env.reset(seed=9)
    env.step(sampled(env, 1)[0])
    before = env.get_state()
    with pytest.raises(ValueError, match=r"^[^\n]*state[^\n]*$"):
        env.set_state(broken)
    np.testing.assert_equal(env.get_state(), before)
    env.step(sampled(env, 1)[0])


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("kind", ["single", "NextStep"])
def test_wrong_states_are_refused_and_change_nothing(tiny_file, kind, change):
    env, other = (environment("LatentEdit-v0", tiny_file, kind) for _ in range(2))
    other.reset(seed=1)
    assert_refused(env, change(other.get_state()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (dict(kind="single"), dict(kind="NextStep")),
        (dict(kind="NextStep"), dict(kind="single")),
        (dict(kind="NextStep", rows=1), dict(kind="single")),
        (dict(kind="NextStep", rows=3), dict(kind="NextStep", rows=2)),
        (dict(kind="single", env_id="LatentEditPixels-v0"), dict(kind="single")),
        (dict(kind="single"), dict(kind="single", env_id="LatentEditPixels-v0")),
        (dict(kind="single", identity_weight=0.0), dict(kind="single")),
    ],
    ids=str,
)
def test_states_of_other_environments_are_refused(tiny_file, one, other):
    envs = [environment(backbone=tiny_file, **{"env_id": IDS[0], **how}) for how in (one, other)]
    envs[1].reset(seed=0)
    assert_refused(envs[0], envs[1].get_state())


def test_messages_say_what_is_wrong(tiny_file):
    env = environment("LatentEdit-v0", tiny_file, "NextStep")
    env.reset(seed=0)
    state = env.get_state()
    for message, wrong in {
        "state has the keys ['core']; expected ['core', 'ended', 'random', 'returns', 'steps']": {
            "core": 1
        },
        "state['core']['latents'] is an array of float32 [3, 4]; "
        "expected an array of float32 [3, 8]": core(state, latents=np.zeros((3, 4), np.float32)),
        "state['ended'] is an array of int64 [3]; expected an array of bool [3]": changed(
            state, "ended", np.zeros(3, dtype=int)
        ),
        "no state of a random generator: {}": changed(state, "random", [{}, {}, {}]),
        "state['random'] is a list of 0; expected a list of 3": changed(state, "random", []),
    }.items():
        with pytest.raises(ValueError) as error:
            env.set_state(wrong)
        assert str(error.value) == message
