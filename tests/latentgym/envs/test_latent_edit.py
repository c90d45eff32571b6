import dataclasses
import functools
import itertools
import json
import pickle
import random
import re
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, SCHEMA
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

import latentgym
from gan_backbones import Backbone, load
from gan_backbones.networks import Judge
from latentgym.assessor import MAX_IMAGES
from latentgym.core import EditCore
from latentgym.envs.latent_edit import LatentEditEnv
from latentgym.task import EditTask

PARTS = {"latent": LATENT_DIM, "target": 7, "start": 7, "attributes": 7, "realism": 2}
MATRIX = [[0.5] * LATENT_DIM, [1.0] + [0.0] * (LATENT_DIM - 1)]
# No test may depend on a default, so all are set.
OPTIONS = dict(
    target=None,
    directions="coordinates",
    delta=0.7,
    latent_bound=2.5,
    start="any",
    observation=list(PARTS),
    realism_score="log_probability",
    realism_weight=0.7,
    attribute_score="log_probability",
    attribute_weight=1.3,
    keep_weight=0.4,
    success_bonus=0.9,
    terminate_on_success=False,
    bf16=False,
)
REALISM = ("log_probability", "probability", "logit")
SCORES = [(r, a) for r in REALISM for a in ("log_probability", "cosine")] + [("logit", "margin")]
FULL_TARGET = {"hair": "bun", "hairColor": "2c1b18", "glasses": "round"}


@pytest.fixture
def make(tiny_file):
    """gym.make of the tiny backbone."""

    def make(max_episode_steps=10, **options):
        options = {"backbone": tiny_file, **OPTIONS, **options}
        return gym.make("LatentEdit-v0", max_episode_steps=max_episode_steps, **options)

    return make


@pytest.fixture
def tiny(tiny_file):
    return load(tiny_file)


def actions(env, count, seed=0):
    return np.random.default_rng(seed).integers(env.action_space.n, size=count).tolist()


def part(env, observation, name):
    parts = env.unwrapped.core.task.observation
    start = sum(PARTS[p] for p in itertools.takewhile(lambda p: p != name, parts))
    return observation[start : start + PARTS[name]]


def episode(env, seed, steps=None, **options):
    """Latents of a random episode from reset to end, and each step's return values."""
    observation, info = env.reset(seed=seed, options=options or None)
    latents, steps_taken = [part(env, observation, "latent")], []
    for action in actions(env, steps or 1000, seed):
        steps_taken.append(env.step(action))
        latents.append(part(env, steps_taken[-1][0], "latent"))
        if steps_taken[-1][2] or steps_taken[-1][3]:
            break
    return np.array(latents), info, steps_taken


# What the reward should be, from the networks as they were trained, in numpy and float64.


def outputs(backbone, latents, role):
    with torch.no_grad():
        network = getattr(backbone, role)
        return network(backbone.generator(torch.tensor(latents))).double().numpy()


def probabilities(backbone, latents, role="classifier"):
    odds = np.exp(outputs(backbone, latents, role))
    return np.concatenate(
        [odds[:, c] / odds[:, c].sum(1, keepdims=True) for c in SCHEMA.slices.values()], axis=1
    )


def seen(backbone, latents, role):
    """Variant indices [N, A]."""
    p = probabilities(backbone, latents, role)
    return np.stack([p[:, c].argmax(axis=1) for c in SCHEMA.slices.values()], axis=1)


def potentials(env, backbone, latents, wanted, start):
    """The reward's weighted scores of ``latents``, each [N]."""
    task = env.unwrapped.core.task
    logits = outputs(backbone, latents, "discriminator")
    realism = {
        "log_probability": -np.logaddexp(0, -logits),
        "probability": 100 / (1 + np.exp(-logits)),
        "logit": logits,
    }
    p = probabilities(backbone, latents)
    columns, kept = np.flatnonzero(wanted), []
    targeted = np.zeros(SCHEMA.size, dtype=bool)
    for i, part in enumerate(SCHEMA.slices.values()):
        if wanted[part].any():
            targeted[part] = True
        else:
            kept.append(part.start + seen(backbone, start[None], "classifier")[0, i])
    length = np.sqrt((p[:, targeted] ** 2).sum(axis=1)) * np.sqrt(len(columns))
    attributes = {
        "log_probability": np.log(p[:, columns]).mean(axis=1),
        "cosine": 100 * p[:, columns].sum(axis=1) / length,
        "margin": np.log(p[:, columns] / (1 - p[:, columns])).mean(axis=1),
    }
    first = outputs(backbone, start[None], "discriminator")[0]
    realistic = logits >= max(first, np.log(0.25 / 0.75))
    reached = (p[:, columns] >= 0.9).all(axis=1) & realistic
    return {
        "success": task.success_bonus * reached,
        "realism": task.realism_weight * realism[task.realism_score],
        "attributes": task.attribute_weight * attributes[task.attribute_score],
        "keep": task.keep_weight * (np.log(p[:, kept]).mean(axis=1) if kept else np.zeros(len(p))),
    }


# The contract of Gymnasium ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"directions": "sefa", "num_directions": 3},
        {"directions": "attributes", "start": "lacks_target"},
        {"directions": MATRIX, "terminate_on_success": True},
        {"observation": ["latent"], "realism_score": "probability", "attribute_score": "cosine"},
        {"observation": ["realism", "attributes"], "target": ["hair"]},
        {"observation": ["start", "target"], "realism_score": "logit", "attribute_score": "margin"},
        {"target": FULL_TARGET},
        {"realism_weight": 0.0, "attribute_weight": 0, "keep_weight": 0, "success_bonus": 0},
    ],
    ids=str,
)
def test_check_env_without_a_warning(make, options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(**options).unwrapped, skip_render_check=True)


def test_check_env_of_the_defaults_and_rendering(tiny_file, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(LatentEditEnv.metadata, "render_fps", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make("LatentEdit-v0", backbone=tiny_file, render_mode="rgb_array")
        check_env(env.unwrapped)


@pytest.mark.parametrize("parts", [["latent"], ["realism", "start"], list(PARTS)[::-1]])
def test_observations_hold_the_named_parts_in_order(make, tiny, parts):
    everything, env = make(start="lacks_target"), make(start="lacks_target", observation=parts)
    for one, other in [
        (everything.reset(seed=4), env.reset(seed=4)),
        (everything.step(3), env.step(3)),
    ]:
        for name in parts:
            np.testing.assert_array_equal(part(env, other[0], name), part(everything, one[0], name))
        assert len(other[0]) == sum(PARTS[name] for name in parts)


def test_what_the_parts_hold(make, tiny):
    env = make()
    first, info = env.reset(seed=3)
    start = part(env, first, "latent")
    env.step(4)
    last = env.step(6)[0]
    latents = np.stack([start, part(env, last, "latent")])
    np.testing.assert_array_equal(part(env, last, "target"), info["target"])
    one_hot = SCHEMA.encode_indices(seen(tiny, latents, "classifier"))[0]
    np.testing.assert_array_equal(part(env, last, "start"), one_hot)
    expected = np.log(probabilities(tiny, latents))
    np.testing.assert_allclose(part(env, last, "attributes"), expected[1], atol=1e-4)
    realism = 1 / (1 + np.exp(-outputs(tiny, latents, "discriminator")))
    np.testing.assert_allclose(part(env, last, "realism"), realism[::-1], atol=1e-5)


@pytest.mark.parametrize("options", [{"start": "lacks_target"}, {"terminate_on_success": True}])
def test_same_seed_same_episodes(make, options):
    one, two = make(**options), make(**options)
    run = [env.reset(seed=5) for env in (one, two)]
    for action in actions(one, 60):
        np.testing.assert_equal(*run)
        if run[0][2:4].count(True):
            run = [env.reset() for env in (one, two)]
        else:
            run = [env.step(action) for env in (one, two)]
    np.testing.assert_equal(*run)
    assert not np.array_equal(one.reset(seed=5)[0], one.reset(seed=6)[0])


def test_global_random_state_is_left_alone(tiny_file):
    def state():
        return random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()  # noqa: NPY002

    random.seed(1)
    before = state()
    backbone = Backbone.read(tiny_file)  # not the one that other tests have loaded already
    for directions in ("sefa", "attributes"):
        env = gym.make("LatentEdit-v0", backbone=backbone, directions=directions)
        env.reset(seed=0)
        env.step(1)
    np.testing.assert_equal(state(), before)


def test_registration_is_idempotent_and_leaves_others_alone():
    spec = gym.spec("LatentEdit-v0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latentgym.register_all()
    assert gym.spec("LatentEdit-v0") is spec


def test_pickled_environment_goes_on_where_it_was(make):
    env = make()
    env.reset(seed=1)
    env.step(2)
    again = pickle.loads(pickle.dumps(env.unwrapped))
    for action in (0, 3):
        np.testing.assert_equal(again.step(action), env.unwrapped.step(action))
    np.testing.assert_equal(again.reset(), env.unwrapped.reset())


@pytest.mark.parametrize(
    "options",
    [
        {"directions": MATRIX, "target": {"hair": "bun"}},
        {"target": ["hair", "glasses"], "observation": ("latent", "target")},
    ],
    ids=str,
)
def test_spec_survives_json_and_pickle(make, options):
    env = make(**options)
    json.loads(env.spec.to_json())
    specs = [EnvSpec.from_json(env.spec.to_json()), pickle.loads(pickle.dumps(env.spec))]
    for again in map(gym.make, specs):
        np.testing.assert_equal(again.reset(seed=3), env.reset(seed=3))
        np.testing.assert_equal(again.step(2), env.step(2))
        assert again.spec.max_episode_steps == 10


@pytest.mark.filterwarnings("ignore")  # what gymnasium says of its own forks
def test_spawned_worker_sees_the_same(make, tiny_file):
    one = functools.partial(gym.make, "latentgym:LatentEdit-v0", backbone=tiny_file, **OPTIONS)
    workers = AsyncVectorEnv([one], context="spawn")
    try:
        env = make()
        np.testing.assert_array_equal(workers.reset(seed=8)[0][0], env.reset(seed=8)[0])
        observations, rewards, *_ = workers.step([3])
        observation, reward, *_ = env.step(3)
        np.testing.assert_array_equal(observations[0], observation)
        assert rewards[0] == reward
    finally:
        workers.close()


# Actions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", ["coordinates", "attributes", MATRIX], ids=str)
def test_an_even_action_raises_its_direction_and_the_next_lowers_it(make, directions):
    env = make(directions=directions, latent_bound=100.0)
    observation, _ = env.reset(seed=0)
    matrix = env.unwrapped.core.directions
    assert env.action_space.n == 2 * len(matrix)
    if directions is MATRIX:
        np.testing.assert_array_equal(matrix, MATRIX)
    for action in range(env.action_space.n):
        before = part(env, observation, "latent")
        observation = env.step(action)[0]
        move = (0.7, -0.7)[action % 2] * matrix[action // 2].numpy()
        np.testing.assert_allclose(part(env, observation, "latent") - before, move, atol=1e-6)


def test_latent_stays_within_the_bound(make):
    env = make(max_episode_steps=30, latent_bound=0.9)
    assert np.abs(part(env, env.reset(seed=0)[0], "latent")).max() == np.float32(0.9)
    for _ in range(5):
        observation, *_ = env.step(1)
        assert observation in env.observation_space
    latent = part(env, observation, "latent")
    assert latent[0] == np.float32(-0.9)
    _, reward, *_, info = env.step(1)
    assert reward == 0.0 and set(info["rewards"].values()) == {0.0}
    np.testing.assert_array_equal(part(env, env.step(1)[0], "latent"), latent)


@pytest.mark.parametrize("action", [-1, 16, 0.0, 1.5, None, "0", np.array([1]), float("nan")])
def test_invalid_action(make, action):
    env = make().unwrapped
    env.reset(seed=0)
    message = f"action is {action!r}; allowed: Discrete(16)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        env.step(action)


def test_integer_actions_of_any_type_are_the_same(make):
    env = make()
    results = []
    for action in (5, np.int64(5), np.int32(5), np.uint8(5), np.array(5)):
        env.reset(seed=2)
        results.append(env.step(action))
    for result in results[1:]:
        np.testing.assert_equal(result, results[0])


def test_reset_must_come_first(make):
    env = make().unwrapped
    for call in (lambda: env.step(0), lambda: env.score(np.zeros((1, LATENT_DIM)))):
        with pytest.raises(gym.error.ResetNeeded, match="call reset before"):
            call()


# Rewards ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [{"hair": "fro"}, {"hair": "bun", "glasses": "none"}, FULL_TARGET], ids=len
)
@pytest.mark.parametrize(("realism", "attribute"), SCORES)
def test_reward_is_what_the_networks_say(make, tiny, realism, attribute, target):
    env = make(target=target, realism_score=realism, attribute_score=attribute)
    latents, info, steps = episode(env, seed=1)
    np.testing.assert_array_equal(info["target"], SCHEMA.encode(target))
    expected = potentials(env, tiny, latents, info["target"], latents[0])
    tolerance = dict(
        rtol=1e-3, atol=2e-3 if "cosine" in attribute or realism == "probability" else 2e-4
    )
    for name, potential in expected.items():
        rewards = [step[4]["rewards"][name] for step in steps]
        np.testing.assert_allclose(rewards, np.diff(potential), err_msg=name, **tolerance)
    for _, reward, _, _, info in steps:
        assert reward == pytest.approx(sum(info["rewards"].values()), rel=1e-5, abs=1e-5)
        assert type(reward) is float


def test_bf16_is_another_rounding_of_the_same_scores(make):
    latents, scores = np.random.default_rng(0).standard_normal((50, 8)).clip(-2.5, 2.5), []
    for bf16 in (False, True):
        env = make(bf16=bf16)
        observation, _ = env.reset(seed=0)
        assert observation.dtype == np.float32
        scores.append(env.unwrapped.score(latents)["realism"])
    assert 0 < np.abs(scores[1] - scores[0]).max() < 0.05
    assert all(score.dtype == np.float32 for score in scores)


def test_info_scores_are_probabilities_the_networks_give(make, tiny):
    env = make(target={"hair": "fro", "glasses": "none"})
    latents, _, steps = episode(env, seed=2)
    p = probabilities(tiny, latents)
    realism = 1 / (1 + np.exp(-outputs(tiny, latents, "discriminator")))
    hair_colour = SCHEMA.slices["hairColor"]
    expected = {
        "realism": realism[-1],
        "start_realism": realism[0],
        "target": (p[-1, 2] + p[-1, 5]) / 2,
        "kept": p[-1, hair_colour][p[0, hair_colour].argmax()],
    }
    assert steps[-1][4]["scores"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("realism", "attribute"), SCORES)
def test_return_is_what_the_whole_edit_gained(make, realism, attribute):
    env = make(max_episode_steps=25, realism_score=realism, attribute_score=attribute)
    latents, _, steps = episode(env, seed=7)
    assert len(steps) == 25
    potential = env.unwrapped.score(latents[[0, -1]])["potential"]
    gained = sum(reward for _, reward, *_ in steps)
    assert gained == pytest.approx(potential[1] - potential[0], abs=1e-2)
    assert abs(gained) > 0.05


@pytest.mark.parametrize(("realism", "attribute"), SCORES)
def test_score_foretells_a_step_and_is_counted(make, realism, attribute):
    env = make(realism_score=realism, attribute_score=attribute)
    latent = part(env, env.reset(seed=3)[0], "latent")
    assert env.unwrapped.evaluations == 1
    ahead = latent.copy()
    ahead[2] = np.clip(ahead[2] + np.float32(0.7), -2.5, 2.5)
    scores = env.unwrapped.score(np.stack([latent, ahead]).astype(np.float64))
    assert env.unwrapped.evaluations == 3
    names = ("realism", "attributes", "keep", "success")
    np.testing.assert_allclose(scores["potential"], sum(scores[n] for n in names), atol=1e-3)
    _, reward, *_, info = env.step(4)
    assert env.unwrapped.evaluations == 4
    assert np.diff(scores["potential"])[0] == pytest.approx(reward, abs=1e-3)
    for name in names:
        assert np.diff(scores[name])[0] == pytest.approx(info["rewards"][name], abs=1e-3)
    with pytest.raises(ValueError, match=r"latents has shape \(8,\); expected \(N, 8\)"):
        env.unwrapped.score(latent)


@pytest.mark.parametrize(("realism", "attribute"), SCORES)
def test_gradient_of_the_potential_points_uphill(make, realism, attribute):
    env = make(target={"hair": "bob"}, realism_score=realism, attribute_score=attribute)
    env.reset(seed=0)
    core, rows = env.unwrapped.core, torch.zeros(20, dtype=torch.long)
    latents = torch.from_numpy(np.random.default_rng(0).normal(size=(20, LATENT_DIM))).float()
    latents.requires_grad_(True)

    def value(latents):
        return core.potential(core.assess(latents, rows), rows).sum(dim=0)

    before = value(latents)
    before.sum().backward()
    assert torch.isfinite(latents.grad).all() and (latents.grad.norm(dim=1) > 0).all()
    with torch.no_grad():
        after = value(latents + 0.01 * torch.nn.functional.normalize(latents.grad))
    assert (after > before).float().mean() >= 0.9  # a kink of a ReLU may be in the way


def test_scores_in_cut_off_regions_give_no_nan(make, monkeypatch):
    env = make(realism_score="log_probability", attribute_score="margin")
    env.reset(seed=0)
    classifier = env.unwrapped.core.assessor.networks["classifier"]
    monkeypatch.setitem(
        env.unwrapped.core.assessor.networks, "classifier", lambda x: 1e4 * classifier(x)
    )
    monkeypatch.setitem(
        env.unwrapped.core.assessor.networks, "discriminator", lambda x: x.sum((1, 2, 3)) * 1e4
    )
    for action in range(5):
        observation, reward, *_ = env.step(action)
        assert observation in env.observation_space and np.isfinite(reward)


@pytest.mark.parametrize("role", ["generator", "classifier", "discriminator"])
def test_a_network_that_returns_nan_stops_the_edit(make, monkeypatch, role):
    env = make()
    env.reset(seed=0)
    env.step(0)
    network = env.unwrapped.core.assessor.networks[role]
    monkeypatch.setitem(
        env.unwrapped.core.assessor.networks, role, lambda x: network(x) * float("nan")
    )
    with pytest.raises(FloatingPointError, match="not finite"):
        env.step(0)


# Starts and targets -------------------------------------------------------------------------------


def test_reset_takes_a_start_and_a_target(make):
    env = make(start="lacks_target")
    latent = np.linspace(-2.5, 2.5, LATENT_DIM).tolist()
    options = {"latent": latent, "target": {"glasses": "round"}}
    observation, info = env.reset(seed=1, options=options)
    np.testing.assert_array_equal(part(env, observation, "latent"), np.float32(latent))
    assert SCHEMA.decode(info["target"]) == {"glasses": "round"}
    assert env.unwrapped.schema.decode(part(env, observation, "target")) == {"glasses": "round"}
    assert options == {"latent": latent, "target": {"glasses": "round"}}
    observation, _ = env.reset()
    assert not np.array_equal(part(env, observation, "latent"), np.float32(latent))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "zero"}, "options['latent'] is 'zero'; expected numbers"),
        ({"latent": [[0.0], 1.0]}, "options['latent'] is [[0.0], 1.0]; expected numbers"),
        ({"latent": [0.0] * 7}, "options['latent'] has shape (7,); expected (1, 8) or (8,)"),
        (
            {"latent": [0.0] * 7 + [2.6]},
            "options['latent'] must be finite and within latent_bound=2.5; found values from 0.0 to"
            " 2.59",
        ),
        ({"latent": [0.0] * 7 + [float("nan")]}, "options['latent'] must be finite and within"),
        ({"target": {"hat": "red"}}, "unknown attribute 'hat'; allowed: hair, hairColor, glasses"),
        (
            {"target": {"hair": "red"}},
            "unknown variant 'red' of attribute 'hair'; allowed: bob, bun, fro",
        ),
        ({"target": ["hair"]}, "options['target'] is ['hair']; expected a dict"),
        ({"target": {}}, "target is empty; name at least one attribute, or pass None"),
        (["hair"], "options is ['hair']; expected a dict"),
    ],
    ids=str,
)
def test_bad_reset_options(make, options, message):
    env = make().unwrapped
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        env.reset(options=options)


@pytest.mark.parametrize("target", [{"hair": "bob"}, {"glasses": "round"}, None], ids=str)
def test_starts_lack_the_target_unless_any_will_do(make, tiny, target):
    for start in ("lacks_target", "any"):
        env = make(start=start, target=target)
        has_it = {"classifier": [], "judge": []}
        env.reset(seed=0)
        for _ in range(50):
            observation, info = env.reset()
            for role, found in has_it.items():
                labels = seen(tiny, part(env, observation, "latent")[None], role)
                found.append((SCHEMA.encode_indices(labels)[0] >= info["target"]).all())
        for found in has_it.values():
            assert any(found) == (start == "any")
        assert (env.unwrapped.evaluations > 51) == (start == "lacks_target")


def test_starts_come_from_the_prior(make):
    env = make(latent_bound=10.0)
    env.reset(seed=0)
    latents = np.array([part(env, env.reset()[0], "latent") for _ in range(400)])
    assert abs(latents.mean()) < 0.06 and abs(latents.std() - 1) < 0.05


def test_an_impossible_start_is_an_error(make, monkeypatch):
    monkeypatch.setattr("latentgym.core.MAX_START_DRAWS", 20)
    env = make(start="lacks_target", target={"hair": "bun"})
    logits = torch.tensor([[0.0, 9, 0, 0, 0, 0, 0]])
    monkeypatch.setitem(
        env.unwrapped.core.assessor.networks, "judge", lambda x: logits.repeat(len(x), 1)
    )
    message = "20 random starts all show the target {'hair': 'bun'}; pass start='any'"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        env.reset(seed=0)


targets = (
    st.none()
    | st.lists(st.sampled_from(SCHEMA.names), min_size=1, max_size=3)
    | (
        st.fixed_dictionaries(
            {}, optional={n: st.sampled_from(v) for n, v in SCHEMA.variants.items()}
        )
    ).filter(bool)
)


@settings(max_examples=40, deadline=None)
@given(target=targets, seed=st.integers(0, 2**31), fixed=st.booleans())
def test_targets_are_those_asked_for(tiny_file, target, seed, fixed):
    env = gym.make("LatentEdit-v0", **{"backbone": tiny_file, **OPTIONS, "target": target})
    options = {"target": {"hairColor": "a55728"}} if fixed else None
    drawn = [SCHEMA.decode(env.reset(seed=seed, options=options)[1]["target"])]
    drawn.append(SCHEMA.decode(env.step(0)[4]["target"]))
    assert drawn[0] == drawn[1]
    drawn += [SCHEMA.decode(env.reset()[1]["target"]) for _ in range(3)]
    if fixed:
        assert drawn.pop(0) == drawn.pop(0) == {"hairColor": "a55728"}
    for wanted in drawn:
        if isinstance(target, dict):
            assert wanted == target
        else:
            ((attribute, variant),) = wanted.items()
            assert attribute in (target or SCHEMA.names) and variant in SCHEMA.variants[attribute]


def test_every_variant_is_drawn(make):
    for target, size in ((None, 7), (["hair", "glasses"], 5)):
        env = make(target=target)
        env.reset(seed=0)
        assert (sum(env.reset()[1]["target"] for _ in range(150)) > 0).sum() == size


# The verdict --------------------------------------------------------------------------------------


def expected_verdict(backbone, latents, wanted):
    labels = seen(backbone, latents[[0, -1]], "judge")
    realism = outputs(backbone, latents[[0, -1]], "discriminator")
    free = [not wanted[columns].any() for columns in SCHEMA.slices.values()]
    return {
        "is_success": bool(
            (SCHEMA.encode_indices(labels)[1] >= wanted).all() and realism[1] >= realism[0]
        ),
        "kept": np.mean((labels[0] == labels[1])[free]) if any(free) else 0.0,
        "drift": np.linalg.norm(latents[-1].astype(float) - latents[0]),
    }


@pytest.mark.parametrize(
    "target", [None, {"hair": "fro", "hairColor": "a55728"}, FULL_TARGET], ids=str
)
def test_verdict_is_the_judges(make, tiny, target):
    env = make(max_episode_steps=3, delta=1.5, target=target)
    verdicts = []
    for seed in range(40):
        latents, info, steps = episode(env, seed)
        assert not info.keys() & {"is_success", "kept", "drift"}
        for end, step in enumerate(steps, start=2):
            expected = expected_verdict(tiny, latents[:end], info["target"])
            verdicts.append({name: step[4][name] for name in expected})
            assert verdicts[-1] == pytest.approx(expected, abs=1e-5)
            assert type(verdicts[-1]["is_success"]) is bool
    assert {v["is_success"] for v in verdicts} == {True, False}
    assert len({v["kept"] for v in verdicts}) == {1: 3, 2: 2, 3: 1}[len(target or "1")]


def test_without_a_judge_the_classifier_judges(make, tiny):
    backbone = dataclasses.replace(tiny, judge=None)
    stand_in = dataclasses.replace(tiny, judge=tiny.classifier)
    env = make(max_episode_steps=4, backbone=backbone)
    for seed in range(5):
        latents, info, steps = episode(env, seed)
        expected = expected_verdict(stand_in, latents, info["target"])
        assert {name: steps[-1][4][name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_the_judge_is_not_in_the_reward(make, tiny):
    torch.manual_seed(3)
    others = dataclasses.replace(tiny, judge=Judge(SCHEMA.size, 4, 3, 16))
    differing = 0
    for seed in range(10):
        runs = [episode(make(backbone=b, terminate_on_success=True), seed) for b in (tiny, others)]
        for one, other in zip(runs[0][2], runs[1][2], strict=True):
            np.testing.assert_equal(one[:4], other[:4])
            np.testing.assert_equal(one[4]["rewards"], other[4]["rewards"])
            differing += one[4]["kept"] != other[4]["kept"]
    assert differing > 0


def test_terminates_once_the_classifier_is_sure_of_the_target_and_realism_holds(make, tiny):
    env = make(terminate_on_success=True, start="lacks_target", delta=1.0, target={"hair": "bun"})
    ends, conditions = [], set()
    for seed in range(40):
        latents, info, steps = episode(env, seed)
        has_target = ((probabilities(tiny, latents) >= 0.9) >= info["target"]).all(axis=1)
        realism = outputs(tiny, latents, "discriminator")
        realistic = realism >= max(realism[0], np.log(0.25 / 0.75))
        terminated = [step[2] for step in steps]
        assert terminated == (has_target & realistic)[1:].tolist()
        assert [step[3] for step in steps] == [
            len(latents) > 10 and i == 9 for i in range(len(steps))
        ]
        assert all(type(flag) is bool for step in steps for flag in step[2:4])
        conditions |= set(zip(has_target[1:].tolist(), realistic[1:].tolist(), strict=True))
        ends.append(terminated[-1])
    assert {True, False} == set(ends) and len(conditions) == 4
    env = make(terminate_on_success=False, start="lacks_target", delta=1.0, target={"hair": "bun"})
    assert not any(step[2] for seed in range(10) for step in episode(env, seed)[2])


# Arguments ----------------------------------------------------------------------------------------

LIST = "hair, hairColor, glasses"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "random"}, "start is 'random'; allowed: lacks_target, any"),
        ({"start": ["any"]}, "start is ['any']; allowed: lacks_target, any"),
        (
            {"realism_score": "log"},
            "realism_score is 'log'; allowed: log_probability, probability, logit",
        ),
        ({"realism_score": ["logit"]}, "realism_score is ['logit']; allowed: log_probability, "),
        (
            {"attribute_score": None},
            "attribute_score is None; allowed: log_probability, cosine, margin",
        ),
        ({"delta": 0}, "delta is 0; it must be a finite number above 0"),
        ({"delta": "0.5"}, "delta is '0.5'; it must be a finite number above 0"),
        ({"delta": float("nan")}, "delta is nan; it must be"),
        ({"latent_bound": float("inf")}, "latent_bound is inf; it must be a finite number above 0"),
        ({"realism_weight": -1.0}, "realism_weight is -1.0; it must be a finite number, 0 or more"),
        ({"attribute_weight": None}, "attribute_weight is None; it must be a finite number"),
        ({"keep_weight": float("inf")}, "keep_weight is inf; it must be a finite number"),
        ({"observation": []}, "observation is []; expected a list of latent, target, "),
        ({"observation": "latent"}, "observation is 'latent'; expected a list of latent, "),
        ({"observation": None}, "observation is None; expected a list of latent, "),
        (
            {"observation": ["image"]},
            "observation is 'image'; allowed: latent, target, start, attributes, realism",
        ),
        (
            {"observation": ["latent", "latent"]},
            "observation is ['latent', 'latent']; name each part once",
        ),
        (
            {"target": "hair"},
            "target is 'hair'; expected a dict of attribute to variant, "
            "a list of attributes to draw one from, or None",
        ),
        ({"target": 3}, "target is 3; expected a dict"),
        ({"target": []}, "target is empty; name at least one attribute, or pass None"),
        ({"target": {}}, "target is empty; name at least one attribute, or pass None"),
        ({"target": ["hat"]}, f"target is 'hat'; allowed: {LIST}"),
        ({"target": {"hat": "red"}}, f"unknown attribute 'hat'; allowed: {LIST}"),
        (
            {"directions": "ica"},
            "directions is 'ica'; allowed: coordinates, pca, sefa, attributes, or a matrix",
        ),
        (
            {"num_directions": 3},
            "num_directions is 3; it applies to directions='pca' and 'sefa' alone",
        ),
        ({"directions": "sefa", "num_directions": 9}, "num_directions is 9; allowed: 1 to 8"),
        ({"backbone": "missing"}, "unknown backbone 'missing'; known: "),
        ({"backbone": "a/missing.safetensors"}, "a/missing.safetensors: no such file"),
    ],
    ids=str,
)
def test_bad_arguments(make, tiny_file, options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        EditCore(EditTask(**{"backbone": tiny_file, **OPTIONS, **options}), 1)
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**options)


def test_unknown_arguments(make):
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepsize'"):
        make(stepsize=0.1)
    with pytest.raises(ValueError, match="render_mode is 'ansi'; allowed: None, 'human', 'rgb_arr"):
        LatentEditEnv(render_mode="ansi")


def test_backbones_that_lack_networks(make, tiny):
    plain = dataclasses.replace(tiny, discriminator=None)
    with pytest.raises(ValueError, match="no discriminator: give it one, or pass realism_weight=0"):
        make(backbone=plain)
    env = make(backbone=plain, realism_weight=0)
    _, info, steps = episode(env, seed=0)
    assert all(step[4]["rewards"]["realism"] == 0 for step in steps)
    assert info["scores"]["realism"] == info["scores"]["start_realism"] == 0.5
    for missing in ("classifier", "schema"):
        with pytest.raises(ValueError, match="the backbone has no classifier and schema"):
            make(backbone=dataclasses.replace(tiny, **{missing: None}))


def test_the_backbone_is_shared_and_not_changed(make, tiny_file, tiny):
    before = {k: v.clone() for k, v in tiny.generator.state_dict().items()}
    one, two = make(backbone=tiny), make(backbone=tiny)
    one.reset(seed=0)
    assert one.unwrapped.core.assessor.networks is two.unwrapped.core.assessor.networks
    assert one.unwrapped.backbone is tiny
    assert all(torch.equal(v, before[k]) for k, v in tiny.generator.state_dict().items())
    assert make().unwrapped.backbone is make().unwrapped.backbone


# The core -----------------------------------------------------------------------------------------


def test_images_pass_in_chunks(tiny_file, monkeypatch):
    core = EditCore(EditTask(**{"backbone": tiny_file, **OPTIONS}), 4096)
    sizes, generator = [], core.assessor.networks["generator"]

    def record(latents):
        sizes.append(len(latents))
        return generator(latents)

    monkeypatch.setitem(core.assessor.networks, "generator", record)
    rows = torch.arange(4096)
    core.reset(rows, [np.random.default_rng(i) for i in range(4096)])
    core.step(rows, torch.ones(4096, LATENT_DIM))
    assert core.evaluations == sum(sizes) == 2 * 4096
    core.judge_metrics(rows)
    core.images(core.latents)
    assert max(sizes) == MAX_IMAGES and sum(sizes) == 4 * 4096


# Rendering ----------------------------------------------------------------------------------------


def test_rendering_shows_the_edit_and_costs_no_evaluation(make):
    env, silent = make(render_mode="rgb_array"), make()
    for each in (env, silent):
        each.reset(seed=0)
    frames = [env.render()]
    for action in (0, 2):
        np.testing.assert_equal(env.step(action), silent.step(action))
        frames.append(env.render())
    assert env.unwrapped.evaluations == silent.unwrapped.evaluations == 3
    assert {(f.shape, f.dtype) for f in frames} == {((496, 864, 3), np.dtype("uint8"))}
    assert not np.array_equal(frames[0], frames[1]) and not np.shares_memory(frames[0], frames[1])
    assert silent.unwrapped.render() is None


def test_a_frame_shows_the_scores_of_start_and_now(make, tiny):
    env = make(max_episode_steps=4, target={"hair": "fro"})
    for seed in range(2):  # the second episode counts anew
        latents, _, steps = episode(env, seed)
        view = env.unwrapped.view()
        p = probabilities(tiny, latents)
        realism = 1 / (1 + np.exp(-outputs(tiny, latents, "discriminator")))
        labels = seen(tiny, latents, "classifier")
        for shown, i in ((view.start_attributes, 0), (view.attributes, -1)):
            names = [v if i == 0 else v[0] for v in shown.values()]
            decoded = SCHEMA.decode(SCHEMA.encode_indices(labels)[i])
            assert dict(zip(shown, names, strict=True)) == decoded
        assert view.target == {"hair": "fro"}
        assert view.target_probabilities["hair"] == pytest.approx(p[-1, 2], abs=1e-4)
        assert view.start_target_probabilities["hair"] == pytest.approx(p[0, 2], abs=1e-4)
        assert [view.realism, view.start_realism] == pytest.approx(realism[[-1, 0]], abs=1e-4)
        assert view.step == 4
        assert view.episode_return == pytest.approx(sum(s[1] for s in steps), abs=1e-4)
        assert not np.array_equal(view.start, view.current)


def test_human_mode(make, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(LatentEditEnv.metadata, "render_fps", 1000)
    env, silent = make(render_mode="human"), make()
    np.testing.assert_equal(env.reset(seed=0), silent.reset(seed=0))
    np.testing.assert_equal(env.step(1), silent.step(1))
    assert env.render() is None
    assert env.unwrapped.evaluations == silent.unwrapped.evaluations
    env.close()
    env.close()


def test_closing_the_window_ends_the_showing_and_not_the_edit(make, monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setitem(LatentEditEnv.metadata, "render_fps", 1000)
    pygame.display.quit()
    env, silent = make(render_mode="human"), make()
    for each in (env, silent):
        each.reset(seed=0)
    window = env.unwrapped._window
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    for action in (1, 2):
        np.testing.assert_equal(env.step(action), silent.step(action))
        assert window.closed
    assert env.render() is None
    env.reset(seed=1)
    assert env.unwrapped._window is window and window.closed
    env.close()


def test_grey_images_are_rendered(make):
    from backbones import tiny_backbone

    env = make(backbone=tiny_backbone(channels=1), render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (496, 864, 3)
    images = env.unwrapped.core.images(env.unwrapped.core.latents)
    assert images.shape == (1, 16, 16, 3) and (images == images[..., :1]).all()
