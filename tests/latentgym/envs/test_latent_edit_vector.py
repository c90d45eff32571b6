import itertools
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, SCHEMA
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from latentgym.envs import LatentEditVectorEnv

MODES = list(AutoresetMode)
VERDICT = ("is_success", "kept", "drift")
# No test may depend on a default, so all are set.
OPTIONS = dict(
    target=["hair", "glasses"],
    directions="attributes",
    delta=0.9,
    latent_bound=2.5,
    start="lacks_target",
    observation=["latent", "target", "start", "attributes", "realism"],
    realism_score="log_probability",
    realism_weight=1.0,
    attribute_score="log_probability",
    attribute_weight=1.0,
    keep_weight=0.5,
    success_bonus=2.0,
    terminate_on_success=True,
    bf16=False,
)
STEPS = 7


@pytest.fixture
def make(tiny_file):
    """The vector environment of the tiny backbone."""

    def make(num_envs=4, **options):
        options = {"backbone": tiny_file, "max_episode_steps": STEPS, **OPTIONS, **options}
        return LatentEditVectorEnv(num_envs, **options)

    return make


@pytest.fixture
def singles(tiny_file):
    """Gymnasium's vector environment of single ones from gym.make."""

    def singles(num_envs=4, mode=AutoresetMode.NEXT_STEP, **options):
        options = {"backbone": tiny_file, "max_episode_steps": STEPS, **OPTIONS, **options}

        def one():
            return gym.make("LatentEdit-v0", disable_env_checker=True, **options)

        return SyncVectorEnv([one] * num_envs, autoreset_mode=mode)

    return singles


def sampled(env, steps, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(env.single_action_space.n, size=(steps, env.num_envs))


def arrays(returned):
    """All arrays in what a reset or step returned."""
    if isinstance(returned, dict):
        returned = tuple(returned.values())
    if isinstance(returned, tuple):
        return [array for value in returned for array in arrays(value)]
    if isinstance(returned, np.ndarray) and returned.dtype == object:
        return [returned, *(value for value in returned if value is not None)]
    return [returned]


def check_infos(infos, expected, atol):
    assert infos.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, dict):
            check_infos(infos[key], value, atol)
        elif key.startswith("_"):
            np.testing.assert_array_equal(infos[key], value, err_msg=key)
            assert infos[key].dtype == np.bool_
        else:
            shown = expected[f"_{key}"]
            assert infos[key].shape == value.shape
            for row, other in zip(infos[key][shown], value[shown], strict=True):
                np.testing.assert_allclose(row, other, atol=atol, err_msg=key)
            if key == "final_obs":
                assert all(row is None for row in infos[key][~shown])


def check_equal(returned, expected, mode=None, atol=1e-4):
    """A reset's or step's return values are those of single environments."""
    np.testing.assert_array_equal(returned[0][:, :LATENT_DIM], expected[0][:, :LATENT_DIM])
    np.testing.assert_allclose(returned[0], expected[0], atol=1e-4)
    assert returned[0].dtype == expected[0].dtype == np.float32
    infos = dict(expected[-1])
    if len(returned) > 2:
        np.testing.assert_allclose(returned[1], expected[1], atol=atol)
        for flags, others in zip(returned[2:4], expected[2:4], strict=True):
            np.testing.assert_array_equal(flags, others)
            assert flags.dtype == np.bool_
        # A single environment gives a verdict at each step, as it does not know its last one.
        ended = (expected[2] | expected[3]) & (mode != AutoresetMode.SAME_STEP)
        for key in VERDICT:
            infos[f"_{key}"] = ended
            if not ended.any():
                infos.pop(key, None)
                infos.pop(f"_{key}")
    check_infos(returned[-1], infos, atol)


@pytest.mark.parametrize("num_envs", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_rows_are_single_environments(make, singles, mode, num_envs):
    env, other = make(num_envs, autoreset_mode=mode), singles(num_envs, mode)
    assert env.observation_space == other.observation_space
    assert env.action_space == other.action_space
    check_equal(env.reset(seed=11), other.reset(seed=11))
    terminations = truncations = resets = 0
    for actions in sampled(env, 50 if num_envs > 1 else 80):
        returned = env.step(actions)
        check_equal(returned, other.step(actions), mode)
        terminations += returned[2].sum()
        truncations += returned[3].sum()
        if mode == AutoresetMode.DISABLED and (ended := returned[2] | returned[3]).any():
            resets += 1
            masks = [{"reset_mask": ended.copy()} for _ in range(2)]
            check_equal(env.reset(options=masks[0]), other.reset(options=masks[1]))
    assert terminations and truncations
    assert bool(resets) == (mode == AutoresetMode.DISABLED)


@pytest.mark.parametrize(
    "scores",
    [("probability", "cosine"), ("logit", "margin"), ("logit", "log_probability")],
    ids=str,
)
def test_rows_are_single_environments_for_other_scores(make, singles, scores):
    options = dict(zip(("realism_score", "attribute_score"), scores, strict=True))
    options |= {"target": None, "directions": "coordinates", "start": "any"}
    env, other = make(3, **options), singles(3, **options)
    check_equal(env.reset(seed=2), other.reset(seed=2))
    for actions in sampled(env, 12):
        check_equal(env.step(actions), other.step(actions), atol=1e-3)  # scores of up to 100


def test_an_ended_rows_next_action_is_ignored(make):
    envs = make(3, terminate_on_success=False), make(3, terminate_on_success=False)
    for env in envs:
        env.reset(seed=0)
        for _ in range(STEPS):
            _, _, _, truncated, infos = env.step(np.zeros(3, dtype=int))
        assert truncated.all() and infos["_is_success"].all()
    one, other = envs[0].step(np.array([0, 1, 2])), envs[1].step(np.array([3, 4, 5]))
    np.testing.assert_equal(one, other)
    assert not one[1].any() and not one[2].any() and not one[3].any()
    assert one[4].keys() == {"scores", "_scores", "target", "_target"}


def test_without_a_limit_nothing_is_truncated(make):
    for limit in (None, -1):
        env = make(2, max_episode_steps=limit, terminate_on_success=False)
        env.reset(seed=0)
        for actions in sampled(env, 60):
            _, _, terminated, truncated, infos = env.step(actions)
            assert not truncated.any() and not terminated.any() and "is_success" not in infos


# Seeds and options --------------------------------------------------------------------------------


def test_seeds_may_be_listed(make):
    env = make(3)
    observations, _ = env.reset(seed=20)
    np.testing.assert_array_equal(env.reset(seed=[20, 21, 22])[0], observations)
    again, _ = env.reset(seed=[22, None, np.int64(20)])
    np.testing.assert_array_equal(again[[0, 2]], observations[[2, 0]])
    assert not np.array_equal(again[1], observations[1])
    assert not np.array_equal(make(3).reset()[0], make(3).reset()[0])
    with pytest.raises(ValueError, match=r"^seed has 2 values; expected num_envs=3$"):
        env.reset(seed=[1, 2])


def test_reset_goes_on_with_the_same_random_numbers(make, singles):
    env, other = make(3), singles(3)
    env.reset(seed=3), other.reset(seed=3)
    check_equal(env.reset(), other.reset())


@pytest.mark.parametrize("mode", MODES)
def test_reset_mask_is_read_and_only_its_rows_are_reset(make, mode):
    env = make(4, autoreset_mode=mode, terminate_on_success=False)
    env.reset(seed=0)
    before = env.step(np.zeros(4, dtype=int))[0]
    mask = np.array([True, False, False, True])
    options = {"reset_mask": mask}
    observations, infos = env.reset(seed=[7, 8, 9, 10], options=options)
    assert options["reset_mask"] is mask and mask.tolist() == [True, False, False, True]
    np.testing.assert_array_equal(observations[[1, 2]], before[[1, 2]])
    np.testing.assert_array_equal(observations[mask], make(4).reset(seed=7)[0][mask])
    assert infos["_target"].tolist() == infos["_scores"].tolist() == mask.tolist()
    assert env.get_state()["steps"].tolist() == [0, 1, 1, 0]
    for _ in range(STEPS - 1):
        truncated = env.step(np.ones(4, dtype=int))[3]
    assert truncated.tolist() == [False, True, True, False]
    if mode == AutoresetMode.SAME_STEP:
        return
    # The rows outside the mask kept their own random numbers.
    fresh = make(4)
    fresh.reset(seed=0)
    np.testing.assert_array_equal(env.reset()[0][1:3], fresh.reset()[0][1:3])


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([1, 0]), TypeError),
        (True, TypeError),
        (np.array([True]), ValueError),
        (np.ones((2, 1), dtype=bool), ValueError),
        (np.array([False, False]), ValueError),
    ],
    ids=str,
)
def test_bad_reset_masks(make, mask, error):
    env = make(2)
    env.reset(seed=0)
    with pytest.raises(error, match=r"^options\['reset_mask'\] is .*; expected "):
        env.reset(options={"reset_mask": mask})


def test_options_set_starts_and_target(make):
    env = make(2)
    latents = np.linspace(-2, 2, 2 * LATENT_DIM).reshape(2, LATENT_DIM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (latents, latents.tolist(), latents[0]):
            options = {"latent": given, "target": {"glasses": "none"}}
            observations, infos = env.reset(seed=0, options=options)
            expected = np.broadcast_to(np.float32(given), (2, LATENT_DIM))
            np.testing.assert_array_equal(observations[:, :LATENT_DIM], expected)
            assert [SCHEMA.decode(row) for row in infos["target"]] == [{"glasses": "none"}] * 2
    mask = np.array([False, True])
    observations, _ = env.reset(options={"reset_mask": mask, "latent": latents[::-1]})
    np.testing.assert_array_equal(observations[:, :LATENT_DIM], np.float32(latents[[0, 0]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"latent": np.zeros((3, LATENT_DIM))},
            "options['latent'] has shape (3, 8); expected (2, 8) or (8,)",
        ),
        ({"latent": np.full((2, LATENT_DIM), 9.0)}, "options['latent'] must be finite and within"),
        ({"target": {"hair": "red"}}, "unknown variant 'red' of attribute 'hair'; allowed: "),
        ([1], "options is [1]; expected a dict"),
    ],
    ids=str,
)
def test_a_refused_reset_changes_nothing(make, options, message):
    env, untouched = make(2), make(2)
    for each in (env, untouched):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        env.reset(seed=5, options=options)
    for actions in sampled(env, 20):
        np.testing.assert_equal(env.step(actions), untouched.step(actions))


def test_reset_must_come_first(make):
    env = make(2)
    zeros = np.zeros(2, dtype=int)
    with pytest.raises(gym.error.ResetNeeded, match=r"^call reset before step$"):
        env.step(zeros)
    with pytest.raises(ValueError, match="expected a dict"):
        env.reset(options=3)
    with pytest.raises(gym.error.ResetNeeded, match=r"^the first reset must begin all rows"):
        env.reset(seed=0, options={"reset_mask": np.array([True, False])})
    with pytest.raises(gym.error.ResetNeeded):
        env.step(zeros)
    env.reset(seed=0, options={"reset_mask": np.array([True, True])})
    env.step(zeros)


# Actions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "actions",
    [
        [0.0, 1.0],
        np.array([0.5, 1.5]),
        [0, 14],
        [-1, 0],
        [0, 1, 2],
        [[0, 1]],
        0,
        None,
        [None, 0],
        ["0", "1"],
        [True, False],
        np.zeros(50, dtype=int),
    ],
    ids=str,
)
def test_invalid_actions(make, actions):
    env = make(2)
    before, _ = env.reset(seed=0)
    with pytest.raises(ValueError, match=r"^actions are [^\n]*; allowed: MultiDiscrete[^\n]*$"):
        env.step(actions)
    np.testing.assert_array_equal(env.core.latents, before[:, :LATENT_DIM])


def test_integer_actions_of_any_type_are_the_same(make):
    results = []
    for actions in ([3, 4], (3, 4), np.array([3, 4], dtype=np.uint8), np.array([3, 4], np.int32)):
        env = make(2)
        env.reset(seed=0)
        results.append(env.step(actions))
    for result in results[1:]:
        np.testing.assert_equal(result, results[0])


def test_disabled_mode_refuses_to_step_an_ended_row(make):
    env = make(3, autoreset_mode="Disabled", terminate_on_success=False)
    env.reset(seed=0)
    zeros = np.zeros(3, dtype=int)
    env.step(zeros)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(STEPS - 1):
        truncated = env.step(zeros)[3]
    assert truncated.tolist() == [True, False, True]
    latents = env.core.latents.clone()
    with pytest.raises(gym.error.ResetNeeded, match=r"^rows \[0, 2\] have ended: reset them with"):
        env.step(zeros)
    assert torch.equal(env.core.latents, latents)
    env.reset(options={"reset_mask": np.array([True, False, False])})
    with pytest.raises(gym.error.ResetNeeded, match=r"^rows \[2\] have ended"):
        env.step(zeros)
    env.reset(options={"reset_mask": np.array([False, False, True])})
    assert env.step(zeros)[3].tolist() == [False, True, False]


# What is returned ---------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", [OPTIONS["observation"], ["latent"]], ids=len)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_returned_is_used_again(make, mode, observation):
    env, untouched = (make(3, autoreset_mode=mode, observation=observation) for _ in range(2))

    def both(call):
        returned, expected = call(env), call(untouched)
        now, untouched_arrays = arrays(returned), arrays(expected)
        for one, other in zip(now, untouched_arrays, strict=True):
            if one.dtype != object:
                np.testing.assert_array_equal(one, other)
        for one, other in [*itertools.combinations(now, 2), *itertools.product(now, before)]:
            assert one is not other and not np.shares_memory(one, other)
        for array in now:
            array[:] = 1
        before[:] = now
        return expected

    before = []
    both(lambda e: e.reset(seed=0))
    for actions in sampled(env, 20):
        given = [actions.copy(), actions.copy()]
        _, _, terminated, truncated, _ = both(lambda e: e.step(given[e is env]))  # noqa: B023
        given[1][:] = 0
        if mode == AutoresetMode.DISABLED and (mask := terminated | truncated).any():
            given = [{"reset_mask": mask.copy()}, {"reset_mask": mask.copy()}]
            both(lambda e: e.reset(options=given[e is env]))  # noqa: B023
            given[1]["reset_mask"][:] = True


@pytest.mark.parametrize("mode", MODES)
def test_gymnasiums_episode_statistics(make, mode):
    env = RecordEpisodeStatistics(make(3, autoreset_mode=mode))
    env.reset(seed=0)
    returns, lengths, episodes = np.zeros(3), np.zeros(3, dtype=int), 0
    fresh = np.zeros(3, dtype=bool)
    for actions in sampled(env, 40):
        _, rewards, terminated, truncated, infos = env.step(actions)
        lengths = np.where(fresh & (mode == AutoresetMode.NEXT_STEP), 0, lengths + 1)
        returns = np.where(lengths == 0, 0, returns + rewards)
        ended = terminated | truncated
        if ended.any():
            episodes += ended.sum()
            where = infos["final_info"] if "episode" in infos.get("final_info", {}) else infos
            np.testing.assert_array_equal(where["_episode"], ended)
            np.testing.assert_allclose(where["episode"]["r"][ended], returns[ended], atol=1e-4)
            np.testing.assert_array_equal(where["episode"]["l"][ended], lengths[ended])
            if mode == AutoresetMode.DISABLED:
                env.reset(options={"reset_mask": ended.copy()})
        if mode != AutoresetMode.NEXT_STEP:
            returns[ended], lengths[ended] = 0, 0
        fresh = ended
    assert episodes > 10


# How it is made -----------------------------------------------------------------------------------


def test_make_vec(tiny_file):
    options = {"backbone": tiny_file, **OPTIONS, "terminate_on_success": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec("LatentEdit-v0", num_envs=3, max_episode_steps=2, **options)
        default = gym.make_vec("latentgym:LatentEdit-v0", num_envs=2, **options)
    assert type(env) is type(default) is LatentEditVectorEnv
    assert env.spec.id == "LatentEdit-v0" and env.num_envs == 3
    for each, limit in ((env, 2), (default, gym.spec("LatentEdit-v0").max_episode_steps)):
        each.reset(seed=0)
        truncated = [each.step([0] * each.num_envs)[3].tolist() for _ in range(limit)]
        assert truncated == [[i == limit - 1] * each.num_envs for i in range(limit)]
        each.close()
        each.close()
    env = gym.make_vec("LatentEdit-v0", 2, "sync", **options)
    default.reset(seed=4)
    check_equal(default.reset(seed=4), env.reset(seed=4))


def test_autoreset_mode_is_each_instances_own(make):
    envs = [make(1, autoreset_mode=mode) for mode in MODES]
    envs += [make(1, autoreset_mode=mode.value) for mode in MODES]
    for env, mode in zip(envs, MODES * 2, strict=True):
        assert env.autoreset_mode is env.metadata["autoreset_mode"] is mode
    assert "autoreset_mode" not in LatentEditVectorEnv.metadata


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs is 0; it must be an integer of at least 1"),
        ({"render_mode": "human"}, "render_mode is 'human'; allowed: None, 'rgb_array'"),
        ({"autoreset_mode": "never"}, "'never' is not a valid AutoresetMode"),
        ({"delta": -1}, "delta is -1; it must be a finite number above 0"),
    ],
    ids=str,
)
def test_bad_arguments(make, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(**options)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepsize'"):
        make(stepsize=1)


@pytest.mark.parametrize("kind", ["", "Continuous", "Goal", "Pixels"])
def test_the_grid_tiles_the_current_images(kind, tiny_file):
    options = dict(backbone=tiny_file, start="any", delta=1.0)
    env = gym.make_vec(f"LatentEdit{kind}-v0", 5, render_mode="rgb_array", **options)
    silent = gym.make_vec(f"LatentEdit{kind}-v0", 5, **options)
    for method in ("render", "render_grid"):
        with pytest.raises(gym.error.ResetNeeded, match=f"^call reset before {method}$"):
            getattr(env, method)()
    for each in (env, silent):
        each.reset(seed=0)
        each.action_space.seed(0)
    evaluations = env.core.evaluations
    picture = env.render_grid()
    assert picture.shape == (2 * 16 + 2, 3 * 16 + 2 * 2, 3) and picture.dtype == np.uint8
    for row, (top, left) in enumerate([(0, 0), (0, 18), (0, 36), (18, 0), (18, 18)]):
        with torch.no_grad():
            image = env.backbone.generator(env.core.latents[row : row + 1])[0]
        shown = picture[top : top + 16, left : left + 16].astype(float)
        np.testing.assert_allclose(shown, (image.permute(1, 2, 0) + 1) * 127.5, atol=0.51)
    env.step(env.action_space.sample())
    silent.step(silent.action_space.sample())
    assert not np.array_equal(env.render_grid(), picture)
    env.render()
    assert env.core.evaluations == silent.core.evaluations == evaluations + 5
    assert (env.core.latents == silent.core.latents).all() and silent.render() is None
