import re

import numpy as np
import pytest
import torch
from backbones import LATENT_DIM, SCHEMA, tiny_backbone
from edits import images, latents_of, make, make_vec, sampled
from stable_baselines3 import PPO

from gan_backbones import Backbone

ENV_ID = "LatentEditPixels-v0"


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "RGB"])
def backbone(request):
    return tiny_backbone(request.param)


def expected_images(backbone, latents):
    """Images ``[N, H, W, C]``, from 0 to 255, not rounded."""
    return 255 * images(backbone, latents).transpose(0, 2, 3, 1)


def test_observations_are_the_image_and_the_target(backbone):
    env = make(ENV_ID, backbone, 100)
    channels = backbone.generator.config["channels"]
    space = env.observation_space
    assert space["image"].shape == (16, 16, channels) and space["image"].dtype == np.uint8
    assert space["target"].shape == (SCHEMA.size,)
    seen = [env.reset(seed=0)[0]]
    latents = [latents_of(env)]
    for action in sampled(env, 20):
        seen.append(env.step(action)[0])
        latents.append(latents_of(env))
    for observation, latent in zip(seen, latents, strict=True):
        assert observation in space and set(observation) == {"image", "target"}
        expected = expected_images(backbone, latent)[0]
        np.testing.assert_allclose(observation["image"], expected, atol=0.502)
        np.testing.assert_array_equal(observation["target"], env.unwrapped.core.wanted[0])
        assert observation["image"].flags.c_contiguous
    assert len({observation["image"].tobytes() for observation in seen}) > 10


def test_the_target_is_the_one_in_info(backbone):
    env = make(ENV_ID, backbone)
    for target in ({"hair": "bun"}, {"glasses": "round", "hairColor": "2c1b18"}):
        observation, info = env.reset(seed=0, options={"target": target})
        np.testing.assert_array_equal(observation["target"], SCHEMA.encode(target))
        np.testing.assert_array_equal(info["target"], observation["target"])


def test_same_edits_as_with_latents(backbone):
    env, plain = make(ENV_ID, backbone), make("LatentEdit-v0", backbone)
    np.testing.assert_equal(env.reset(seed=1)[1], plain.reset(seed=1)[1])
    for action in sampled(env, 7):
        np.testing.assert_equal(env.step(action)[1:], plain.step(action)[1:])


def test_vector_rows_see_what_single_environments_see(backbone):
    env = make_vec(ENV_ID, backbone, 3, None)
    results = [env.reset(seed=5)[0]]
    actions = sampled(env, 15)
    results += [env.step(batch)[0] for batch in actions]
    for row in range(3):
        single = make(ENV_ID, backbone, 100)
        seen = [single.reset(seed=5 + row)[0], *[single.step(int(a[row]))[0] for a in actions]]
        for one, batch in zip(seen, results, strict=True):
            difference = batch["image"][row].astype(int) - one["image"]
            assert abs(difference).max() <= 1 and (difference != 0).mean() < 0.01
            np.testing.assert_array_equal(batch["target"][row], one["target"])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_image_is_generated_once_per_step(backbone, monkeypatch, num_envs):
    env = make(ENV_ID, backbone).unwrapped if num_envs == 1 else make_vec(ENV_ID, backbone, 3, 2)
    generator, sizes = env.core.assessor.networks["generator"], []

    def counting(latents):
        sizes.append(len(latents))
        return generator(latents)

    monkeypatch.setitem(env.core.assessor.networks, "generator", counting)
    env.reset(seed=0)
    assert sizes == [num_envs]
    for action in sampled(env, 2):  # the second is the last of the vector environment's episode
        env.step(action)
    assert sizes == [num_envs] * 3 and env.core.evaluations == 3 * num_envs


def test_observations_are_not_used_again(backbone):
    env, untouched = (make_vec(ENV_ID, backbone, 3, 4, autoreset_mode="SameStep") for _ in "ab")
    results = [env.reset(seed=0)[0]]
    untouched.reset(seed=0)
    for actions in sampled(env, 9):
        observation, *_, infos = env.step(actions)
        expected, *_, others = untouched.step(actions)
        np.testing.assert_equal(observation, expected)
        new = [observation]
        if "final_obs" in infos:
            np.testing.assert_equal(list(infos["final_obs"]), list(others["final_obs"]))
            new += list(infos["final_obs"])
        for one in new:
            for other in results:
                assert not np.shares_memory(one["image"], other["image"])
                assert not np.shares_memory(one["target"], other["target"])
            results.append(one)
        for one in new:
            one["image"][:], one["target"][:] = 7, 7
    assert len(results) == 1 + 9 + 2 * 3


def test_observation_is_no_argument(backbone):
    for each in (make, make_vec):
        message = "observation is ['latent']; it is no argument of pixel environments"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            each(ENV_ID, backbone, observation=["latent"])


class Enlarged(torch.nn.Module):
    """Images four times as large, as Stable-Baselines3's convolutions need them."""

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, latents):
        return self.generator(latents).repeat_interleave(4, 2).repeat_interleave(4, 3)


class Shrunk(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images[:, :, ::4, ::4])


def test_stable_baselines_learns_on_it(backbone):
    large = Backbone(
        Enlarged(backbone.generator),
        LATENT_DIM,
        Shrunk(backbone.discriminator),
        Shrunk(backbone.classifier),
        schema=SCHEMA,
    )
    env = make(ENV_ID, large)
    assert env.observation_space["image"].shape[:2] == (64, 64)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0)
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(16)
    after = model.policy.parameters()
    assert not all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    observation, _ = env.reset()
    assert env.step(int(model.predict(observation)[0]))[0] in env.observation_space
