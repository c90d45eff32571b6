"""`LatentEdit-v0`: edit an image by nudging its latent along one direction per step."""

from __future__ import annotations

from latentgym.envs.edit_env import NudgeEnv
from latentgym.envs.edit_vector_env import EditVectorEnv


class LatentEditEnv(NudgeEnv):
    """## Description

    A frozen generator turns a latent `z` into an image. The agent gets a target, such as red hair,
    and nudges `z` along one direction per step. The reward is the improvement in three scores: the
    target's probability, realism, and what stays unchanged. No gradients are needed.

    ## Action Space

    `Discrete(2 * K)`: action `2 i` moves the latent by `+delta` along direction `i`, action
    `2 i + 1` by `-delta`. The latent stays within `latent_bound`.

    To play by hand: `gymnasium.utils.play.play(env, wait_on_player=True)`, with
    `render_mode="rgb_array"`. The keys q, w, ... o raise directions 0 to 8, and a, s, ... l below
    them lower these; 1 to 7 and z, x, ... m are for directions 9 to 15. `latentgym play` has all
    directions, and undo.

    ## Observation Space

    A flat float32 `Box`, the concatenated parts of `observation` (d: latent length; V: number of
    variants of all attributes):

    | Part | Length | Range | Meaning |
    |---|---|---|---|
    | `latent` | d | ±latent_bound (±sqrt(d) on the sphere) | the current latent |
    | `target` | V | 0, 1 | one-hot of the wanted variants; zero for attributes outside the target |
    | `start` | V | 0, 1 | one-hot of what the classifier saw in the start image |
    | `attributes` | V | -15 to 0 | log-probabilities the classifier gives the current image |
    | `realism` | 2 | 0 to 1 | the discriminator's probability now, and at the start |

    ## Rewards

    The sum of the components in `info["rewards"]`. Each is the change of a score in this step, so
    an episode's return is the improvement by the whole edit:

    - `realism`: `realism_weight` times the change of `realism_score`: `"log_probability"`,
      `"probability"` (times 100) or `"logit"` of the discriminator.
    - `attributes`: `attribute_weight` times the change of `attribute_score`: mean
      `"log_probability"` of the wanted variants, `"cosine"` of probabilities and one-hot target
      (times 100), or `"margin"`, their mean log-odds. With `attribute_reward="absolute"`, the
      score itself at each step instead of its change.
    - `keep`: `keep_weight` times the change of the mean log-probability of what the start image
      had in the attributes outside the target. Without it, turning every start into one fixed
      face that has the target is as good as editing.
    - `identity`: `identity_weight` times the change of the similarity to the start image: minus
      the mean absolute difference of pixels in [0, 1].
    - `success`: `success_bonus` while the goal is reached: the classifier gives every wanted
      variant a probability of at least 0.9, and the discriminator's probability is at least 0.25
      and not below the start's. Subtracted again if the edit leaves the goal. Without the bonus,
      an edit that terminates on success would gain less than one that keeps moving near the goal.

    ## Starting State

    A latent from N(0, I), clipped to the bounds. With `start="lacks_target"` it is drawn again as
    long as the classifier or the judge sees the target in it. `reset(options={"latent": ...,
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
    | `num_probes` | 2048 | number of random images that `"pca"` and `"attributes"` directions are fitted to when a backbone is first used; the result is cached on disk |
    | `delta` | 0.5 | length of a nudge |
    | `latent_bound` | 3.0 | each coordinate is clipped to this range; `"sphere"`: the latent is projected onto the sphere of radius sqrt(d), near which N(0, I) concentrates |
    | `start` | `"lacks_target"` | or `"any"` |
    | `observation` | all parts | parts of the observation, in order |
    | `realism_score`, `realism_weight` | `"log_probability"`, 10.0 | see Rewards |
    | `attribute_score`, `attribute_weight` | `"log_probability"`, 5.0 | see Rewards |
    | `attribute_reward` | `"relative"` | or `"absolute"`; see Rewards |
    | `keep_weight` | 2.0 | see Rewards |
    | `identity_weight` | 0.0 | see Rewards |
    | `success_bonus` | 5.0 | see Rewards |
    | `terminate_on_success` | `False` | see Episode End |
    | `bf16` | `False` | compute in bfloat16: about twice as fast on processors that support it, and precise enough for training; scores differ by some hundredths, a probability by up to a tenth |
    | `compile` | `False` | compile the networks with `torch.compile`: takes some seconds once, then is faster |
    | `device` | `"cpu"` | device of the networks |
    | `label` | `None` | for a backbone whose generator is conditional (a conditional VAE's decoder): the label of its images, as `{"digit": "7"}`, with a variant for every attribute; it stays fixed while the latent is edited |
    | `render_mode` | `None` | `"human"` or `"rgb_array"` |

    ## Version History

    - v0: first version.
    """  # noqa: D415, E501


class LatentEditVectorEnv(EditVectorEnv):
    """Many edits at once: see :class:`LatentEditEnv` and `EditVectorEnv`."""
