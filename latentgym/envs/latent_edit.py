"""`LatentEdit-v0`: edit an image by nudging its latent along one direction per step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces

from latentgym.core import COMPONENTS, Rows
from latentgym.envs.edit_env import EditEnv
from latentgym.envs.edit_rules import EditRules, Observation
from latentgym.envs.edit_vector_env import EditVectorEnv
from latentgym.scores import LOG_FLOOR

NUDGE_KEYS = "qawsedrftgyhujikol1z2x3c4v5b6n7m"
"""One key per action: the key that raises a direction is above the key that lowers it."""


class LatentEditRules(EditRules):
    """Nudges along one direction per step; a flat observation; rewards for improving."""

    def make_action_space(self) -> spaces.Space:
        """Return `Discrete(2 * K)`: up and down along each direction."""
        return spaces.Discrete(2 * len(self.core.directions))

    def latent_moves(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the nudges float32 ``[N, latent_dim]`` of actions int64 ``[N]``."""
        return self.core.nudges[actions]

    def make_observation_space(self) -> spaces.Space:
        """Return the box of the task's observation parts."""
        return self.flat_space(self.core.task.observation)

    def observe(self, rows: Rows) -> Observation:
        """Return the task's observation parts side by side, float32 ``[N, D]``."""
        return self.flat_observation(rows, self.core.task.observation)

    def reward(
        self, rows: Rows, components: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the sum of the components, each the weighted improvement of one score."""
        return components.sum(dim=0), dict(zip(COMPONENTS, components.unbind(), strict=True))

    def should_terminate(self, rows: Rows) -> torch.Tensor:
        """Return where the goal is reached; see `latentgym.core.EditCore.check_goal`."""
        return self.core.goal_reached[rows]

    def flat_space(self, parts: Sequence[str]) -> spaces.Box:
        """Return the box of some observation parts side by side."""
        core = self.core
        latent_dim, size = core.backbone.latent_dim, core.schema.size
        bound = core.task.latent_bound
        if isinstance(bound, str):  # "sphere"
            bound = math.sqrt(latent_dim)
        bounds = {
            "latent": (latent_dim, -bound, bound),
            "target": (size, 0.0, 1.0),
            "start": (size, 0.0, 1.0),
            "attributes": (size, LOG_FLOOR, 0.0),
            "realism": (2, 0.0, 1.0),
        }
        chosen = [bounds[part] for part in parts]
        low = [np.full(length, low, np.float32) for length, low, _ in chosen]
        high = [np.full(length, high, np.float32) for length, _, high in chosen]
        return spaces.Box(np.concatenate(low), np.concatenate(high), dtype=np.float32)

    def flat_observation(self, rows: Rows, parts: Sequence[str]) -> torch.Tensor:
        """Return some observation parts side by side, float32 ``[N, D]``."""
        return torch.cat([self._observation_part(part, rows) for part in parts], dim=1)

    def _observation_part(self, part: str, rows: Rows) -> torch.Tensor:
        core = self.core
        if part == "latent":
            return core.latents[rows]
        if part == "target":
            return core.wanted[rows]
        if part == "start":
            return core.start_seen[rows]
        if part == "attributes":
            return core.attributes[rows]
        assert part == "realism", part
        return torch.sigmoid(torch.stack([core.realism[rows], core.start_realism[rows]], dim=1))


class NudgeEnv(EditEnv):
    """An editing environment whose discrete nudges can be given on a keyboard."""

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Return keys to actions for ``gymnasium.utils.play.play``; as many as there are keys."""
        keys = NUDGE_KEYS[: 2 * len(self.core.directions)]
        return {(ord(key),): action for action, key in enumerate(keys)}


class LatentEditEnv(LatentEditRules, NudgeEnv):
    """## Description

    A frozen generator turns a latent `z` into an image. The agent is asked for an attribute, say
    red hair, and nudges `z` along one direction per step. It is rewarded for improving: for images
    that match the target better, look more realistic, and keep the rest as it was. No gradients
    are needed.

    ## Action Space

    `Discrete(2 * K)`: action `2 i` moves the latent by `+delta` along direction `i`, action
    `2 i + 1` by `-delta`. The latent stays within `latent_bound`.

    By hand: `gymnasium.utils.play.play(env, wait_on_player=True)`, with `render_mode="rgb_array"`.
    The keys q, w, ... o raise directions 0 to 8 and a, s, ... l below them lower them; 1 to 7 and
    z, x, ... m do so for directions 9 to 15. `latentgym play` reaches every direction, and undoes.

    ## Observation Space

    A flat float32 `Box`, the parts of `observation` side by side (d: latent length; V: number of
    variants of all attributes):

    | Part | Length | Range | Meaning |
    |---|---|---|---|
    | `latent` | d | ±latent_bound (±sqrt(d) on the sphere) | the current latent |
    | `target` | V | 0, 1 | one-hot of the wanted variants; zero where an attribute is free |
    | `start` | V | 0, 1 | one-hot of what the classifier saw in the start image |
    | `attributes` | V | -15 to 0 | log-probabilities the classifier gives the current image |
    | `realism` | 2 | 0 to 1 | the discriminator's probability now, and at the start |

    ## Rewards

    The sum of the components in `info["rewards"]`, each the change of a score in this step. An
    episode's return is therefore the improvement of the whole edit:

    - `realism`: `realism_weight` times the change of `realism_score`: `"log_probability"`,
      `"probability"` (times 100) or `"logit"` of the discriminator.
    - `attributes`: `attribute_weight` times the change of `attribute_score`: mean
      `"log_probability"` of the wanted variants, `"cosine"` of probabilities and one-hot target
      (times 100), or `"margin"`, their mean log-odds. With `attribute_reward="absolute"` the
      score itself in each step, not its change, as in the coursework that this package grew out
      of.
    - `keep`: `keep_weight` times the change of the mean log-probability of what the start image
      had in the attributes outside the target. Without it, moving to one fixed other face that
      has the target is rewarded as well as editing this one.
    - `identity`: `identity_weight` times the change of the similarity to the start image: minus
      the mean absolute difference of pixels, whose range is one.
    - `success`: `success_bonus` when the goal is reached: the classifier gives every wanted variant
      a probability of at least 0.9, and the discriminator's realism is at least the start's and at
      least 0.25. Taken back if the edit leaves that state. Without it, an edit that terminates at
      the goal would return less than one that keeps moving near the goal.

    ## Starting State

    A latent from N(0, I), brought within the bounds. With `start="lacks_target"` it is drawn again
    while the classifier or the judge already sees the target in it. `reset(options={"latent": ...,
    "target": ...})` sets either.

    ## Episode End

    Truncated by the step limit (40 by default), which `gym.make` applies. With
    `terminate_on_success` it terminates once the goal is reached (see `success` above).

    ## Info

    `scores` (realism, start_realism, target, kept: each a probability), `target` (one-hot, see
    `env.unwrapped.schema.decode`), and after a step `rewards` and the judge's metrics of the edit
    so far: `is_success` (every target variant seen, realism not below the start's), `kept` (share
    of the other attributes seen unchanged) and `drift` (distance from the start latent). The
    metrics at the episode's end count; the vector environment has them only there. The judge is
    never part of a reward.

    ## Arguments

    | Name | Default | Meaning |
    |---|---|---|
    | `backbone` | `"cartoon-faces"` | name, path, or `gan_backbones.Backbone` |
    | `target` | `None` | variants wanted, as `{"hairColor": "a55728"}`; or a list of attributes, one of which is drawn per episode with a variant; `None`: any attribute |
    | `directions` | `"attributes"` | `"coordinates"`, `"pca"`, `"sefa"`, `"attributes"` (see `gan_backbones.latents.directions`), or a matrix `[K, d]` as nested lists |
    | `num_directions` | `None` | number of PCA or SeFa directions; `None`: 24, or as many as there are |
    | `num_probes` | 2048 | number of random images that `"pca"` and `"attributes"` directions are fitted to, at the first use of a backbone; the result is kept on disk |
    | `delta` | 0.5 | length of a nudge |
    | `latent_bound` | 3.0 | each coordinate is clipped to plus and minus this; or `"sphere"`: the latent is projected onto the sphere of radius sqrt(d), near which N(0, I) lies |
    | `start` | `"lacks_target"` | or `"any"` |
    | `observation` | all parts | which parts the observation has, in order |
    | `realism_score`, `realism_weight` | `"log_probability"`, 10.0 | see Rewards |
    | `attribute_score`, `attribute_weight` | `"log_probability"`, 5.0 | see Rewards |
    | `attribute_reward` | `"relative"` | or `"absolute"`; see Rewards |
    | `keep_weight` | 2.0 | see Rewards |
    | `identity_weight` | 0.0 | see Rewards |
    | `success_bonus` | 5.0 | see Rewards |
    | `terminate_on_success` | `False` | see Episode End |
    | `bf16` | `False` | compute in bfloat16: about twice as fast where the processor has it, good enough to train in; scores are off by some hundredths, a probability by up to a tenth |
    | `compile` | `False` | compile the networks with `torch.compile`: some seconds once, then faster |
    | `device` | `"cpu"` | where the networks run |
    | `label` | `None` | for a backbone whose generator is conditional (a conditional VAE's decoder): the label of its images, as `{"digit": "7"}`, with a variant for every attribute; it stays fixed while the latent is edited |
    | `render_mode` | `None` | `"human"` or `"rgb_array"` |

    ## Version History

    - v0: first version.
    """  # noqa: D415, E501


class LatentEditVectorEnv(LatentEditRules, EditVectorEnv):
    """Many edits at once: see :class:`LatentEditEnv` and `EditVectorEnv`."""
