"""White-box methods: they differentiate through generator and classifier, as no agent may."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from agents.evaluation import EvaluationResult
from gan_backbones.utils.devices import plain_mode
from gan_backbones.utils.progress import ProgressBar
from latentgym.core import ALL_ROWS
from latentgym.envs import LatentEditVectorEnv


@plain_mode()
def adam_ascent(
    env: LatentEditVectorEnv,
    steps: int,
    learning_rate: float = 0.1,
    seed: int = 0,
    progress_bar: bool = False,
) -> EvaluationResult:
    """The reference: Adam (Kingma & Ba 2015) climbs the reward's potential over all coordinates.

    Starts from the same latents as an agent that is evaluated with the same ``seed``, and stops
    where the agent would be stopped: at the target, if the task terminates on success.

    Args:
        env: one edit per row.
        steps: Adam updates, each of one forward and one backward pass.
        learning_rate: Adam's.
        seed: random seed for ``env.reset``.
        progress_bar: show one.

    Returns:
        One episode per row, with the values that an agent's evaluation has.
    """
    env.reset(seed=seed)
    core = env.core
    latents = core.latents.clone().requires_grad_(True)
    # Short memories: the slope seen some steps ago says little about the next of so few.
    optimizer = torch.optim.Adam([latents], learning_rate, betas=(0.5, 0.9))
    for _ in ProgressBar(range(steps), desc="gradient reference", disable=not progress_bar):
        assessment = core.assess(latents, ALL_ROWS)
        loss = -core.potential(assessment, ALL_ROWS).sum()
        optimizer.zero_grad()
        loss.backward()
        before = latents.detach().clone()
        optimizer.step()
        with torch.no_grad():
            latents.copy_(core.bounded(latents))
            if core.task.terminate_on_success:
                arrived = core.check_goal(assessment, ALL_ROWS)
                latents[arrived] = before[arrived]
    rewards = core.step(ALL_ROWS, latents.detach() - core.latents, judge=True)
    values = {
        "return": rewards.sum(dim=0),
        "length": torch.full((env.num_envs,), steps),
        **core.judge_metrics(ALL_ROWS, judged=True),
        **{f"scores/{name}": value for name, value in core.scores(ALL_ROWS).items()},
    }
    return EvaluationResult({k: v.double().cpu().numpy() for k, v in values.items()})


class MyopicGradientPolicy:
    """Each step, the action whose direction lies best with the potential's true gradient.

    Args:
        env: the environment it is evaluated on: it reads the latents there.
    """

    def __init__(self, env: LatentEditVectorEnv):
        self._core = env.core

    @plain_mode()
    def predict(self, observation: np.ndarray, **_: Any) -> tuple[np.ndarray, None]:
        """One action per row of the environment."""
        core = self._core
        latents = core.latents.clone().requires_grad_(True)
        core.potential(core.assess(latents, ALL_ROWS), ALL_ROWS).sum().backward()
        assert latents.grad is not None
        slopes = latents.grad @ core.directions.T
        best = slopes.abs().argmax(dim=1, keepdim=True)
        downwards = slopes.gather(1, best) < 0
        return (2 * best + downwards).squeeze(1).cpu().numpy(), None
