"""Plug in a generator from outside the package: a VAE of handwritten digits, edited into sevens.

python examples/plug_in_generator.py --timesteps 50000

Its 1797 digits of 8x8 pixels come with scikit-learn. There is no discriminator, so no reward for
looking real. Seeds 0, 1, 2: 77, 95, 87 % of edits succeed, 3, 4, 1 % of random ones; 20 s of CPU.
"""

from pathlib import Path

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
import torch
import tyro
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm import trange

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError:
    raise SystemExit("this example needs scikit-learn: pip install scikit-learn") from None

import latentgym  # noqa: F401  (registers the environments)
from agents import DQN, evaluate
from agents.hyperparameters import known_good
from agents.search import RandomPolicy
from gan_backbones import check_backbone, wrap

SCHEMA = {"digit": [str(digit) for digit in range(10)]}
TASK = dict(target={"digit": "7"}, realism_weight=0, terminate_on_success=True)


class VAE(nn.Module):
    """Knows nothing of latentgym; its `decode` makes flat images with values from 0 to 1."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 64))

    def decode(self, latents):
        return self.decoder(latents).sigmoid()

    def loss(self, images):
        mean, log_variance = self.encoder(images.flatten(1)).chunk(2, dim=1)
        made = self.decode(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        divergence = (mean**2 + log_variance.exp() - log_variance - 1).sum() / 2
        error = F.binary_cross_entropy(made, images.flatten(1), reduction="sum")
        return (error + divergence) / len(images)


def train(vae, classifier, judge, iterations=1500):
    """VAE and classifier see one half of the digits, the judge the other."""
    pixels, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = (pixels / 16).float().reshape(-1, 1, 8, 8)
    half, other = torch.randperm(len(images)).tensor_split(2)
    optimizer = torch.optim.Adam(nn.ModuleList([vae, classifier, judge]).parameters(), 1e-3)
    for _ in trange(iterations, desc="networks"):
        loss = vae.loss(images[half[torch.randint(len(half), (64,))]])
        for network, known in ((classifier, half), (judge, other)):
            rows = known[torch.randint(len(known), (64,))]
            loss += F.cross_entropy(network(images[rows]), digits[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, network, unseen in (("classifier", classifier, other), ("judge", judge, half)):
        right = network(images[unseen]).argmax(dim=1) == digits[unseen]
        print(f"{name}: {right.double().mean():.1%} of unseen digits right")


def main(
    timesteps: int = 50_000, episodes: int = 100, seed: int = 0, out: Path = Path("runs/digits")
) -> None:
    """Train the networks, plug them in, train a DQN to make sevens, compare it with chance.

    Args:
        timesteps: environment steps to train for.
        episodes: to test on.
        seed: of everything random.
        out: folder for the generator's weights and the picture.
    """
    torch.manual_seed(seed)
    vae = VAE()
    classifier = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1152, 10))
    judge = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 10))
    train(vae, classifier, judge)
    out.mkdir(parents=True, exist_ok=True)
    save_file(vae.state_dict(), out / "vae.safetensors")
    vae.load_state_dict(load_file(out / "vae.safetensors"))  # yours may come from anywhere
    shapes = dict(latent_dim=8, image_shape=(1, 8, 8), value_range=(0, 1))
    backbone = wrap(vae.decode, **shapes, classifier=classifier, judge=judge, schema=SCHEMA)
    check_backbone(backbone)

    training = gym.make_vec("LatentEdit-v0", num_envs=64, backbone=backbone, **TASK)
    agent = DQN(training, seed=seed, **known_good("dqn", "LatentEdit-v0"))
    agent.learn(timesteps, progress_bar=True)

    test = gym.make_vec("LatentEdit-v0", num_envs=min(episodes, 100), backbone=backbone, **TASK)
    for policy in (agent, RandomPolicy(test.single_action_space, seed)):
        result = evaluate(policy, test, episodes, seed=1_000_000)
        success, (low, high) = result.mean("is_success"), result.interval("is_success")
        print(f"{type(policy).__name__:13s} is_success {success:.2f} ({low:.2f} to {high:.2f})")

    env = gym.make("LatentEdit-v0", backbone=backbone, render_mode="rgb_array", **TASK)
    frames = []
    for episode in range(4):
        (observation, _), over = env.reset(seed=1_000_000 + episode), False
        while not over:
            observation, _, terminated, truncated, _ = env.step(agent.predict(observation)[0])
            over = terminated or truncated
        frames.append(env.render())  # shows the start next to the end
    iio.imwrite(out / "edits.png", np.concatenate(frames))
    print(f"four edits: {out / 'edits.png'}")


if __name__ == "__main__":
    tyro.cli(main)
