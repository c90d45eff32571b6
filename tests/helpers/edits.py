"""What the tests of the editing environments share: making them, and scoring without them."""

import gymnasium as gym
import numpy as np
import torch
from backbones import SCHEMA

import latentgym  # noqa: F401  registers the environments

IDS = ("LatentEdit-v0", "LatentEditContinuous-v0", "LatentEditGoal-v0", "LatentEditPixels-v0")
# No test may depend on a default, so all are set.
TASK = dict(
    target=["hair", "glasses"],
    directions="coordinates",
    delta=0.7,
    latent_bound=2.5,
    start="any",
    terminate_on_success=False,
    bf16=False,
    compile=False,
    device="cpu",
)
OBSERVATION = dict(observation=["latent", "target", "start", "attributes", "realism"])
REWARD = dict(
    realism_score="log_probability",
    realism_weight=0.7,
    attribute_score="log_probability",
    attribute_weight=1.3,
    attribute_reward="relative",
    keep_weight=0.4,
    identity_weight=0.0,
    success_bonus=0.9,
)


def arguments(env_id, backbone, **changes):
    """All arguments of an editing environment."""
    options = {"backbone": backbone, **TASK}
    options |= {} if "Pixels" in env_id else OBSERVATION
    options |= {"reward": "sparse"} if "Goal" in env_id else REWARD
    return options | changes


def make(env_id, backbone, max_episode_steps=7, **changes):
    options = arguments(env_id, backbone, **changes)
    return gym.make(env_id, max_episode_steps=max_episode_steps, **options)


def make_vec(env_id, backbone, num_envs=3, max_episode_steps=7, **changes):
    options = arguments(env_id, backbone, **changes)
    return gym.make_vec(env_id, num_envs, max_episode_steps=max_episode_steps, **options)


def sampled(env, count, seed=0):
    """Random actions, which do not depend on the environment's own random numbers."""
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(count)]


def latents_of(env):
    """A copy of the current latents ``[N, latent_dim]``."""
    return env.unwrapped.core.latents.numpy().copy()


# What the networks say, as they were trained; in float64 ------------------------------------------


def images(backbone, latents):
    """Images ``[N, C, H, W]``, from 0 to 1."""
    with torch.no_grad():
        return (backbone.generator(torch.tensor(latents)).double().numpy() + 1) / 2


def realism(backbone, latents):
    """The discriminator's probabilities ``[N]``."""
    with torch.no_grad():
        logits = backbone.discriminator(backbone.generator(torch.tensor(latents)))
    return 1 / (1 + np.exp(-logits.double().numpy()))


def probabilities(backbone, latents):
    """The classifier's ``[N, V]``."""
    with torch.no_grad():
        logits = backbone.classifier(backbone.generator(torch.tensor(latents)))
    odds = np.exp(logits.double().numpy())
    columns = [odds[:, c] for c in SCHEMA.slices.values()]
    return np.concatenate([c / c.sum(axis=1, keepdims=True) for c in columns], axis=1)


def plain(tree):
    """What a reset or step returned, in what `np.testing.assert_equal` understands."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [plain(value) for value in tree]
    return list(tree) if isinstance(tree, np.ndarray) and tree.dtype == object else tree
