"""`LatentEdit-v0`: edit an image by nudging its latent along one direction per step."""

from __future__ import annotations

from latentgym.envs.edit_env import NudgeEnv
from latentgym.envs.edit_vector_env import EditVectorEnv


class LatentEditEnv(NudgeEnv):
    """## Description

    A frozen generator makes an image of a latent `z`. The agent is asked for an attribute, say red
    hair, and nudges `z` along one direction per step. It is paid for what each nudge improved:
    likeness to the target, realism, and what it left as it was. No gradients are needed.

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

    The sum of the components in `info["rewards"]`, each the change of a score in this step, so an
    episode's return is what the whole edit gained:

    - `realism`: `realism_weight` times the change of `realism_score`: `"log_probability"`,
      `"probability"` (times 100) or `"logit"` of the discriminator.
    - `attributes`: `attribute_weight` times the change of `attribute_score`: mean
      `"log_probability"` of the wanted variants, `"cosine"` of probabilities and one-hot target
      (times 100), or `"margin"`, their mean log-odds. With `attribute_reward="absolute"` not the
      change but the score itself, each step, as in the work this package grew from.
    - `keep`: `keep_weight` times the change of the mean log-probability of what the start image
      had in the attributes outside the target. Without it, going to one fixed other face that has
      the target pays as well as editing this one.
    - `identity`: `identity_weight` times the change of the likeness to the start image: minus the
      mean absolute difference of pixels, whose range is one.
    - `success`: `success_bonus` while the edit may rest: the classifier gives every wanted variant
      a probability of 0.9, and the discriminator finds the image no less realistic than the start
      and 0.25 at least. Taken back if the edit leaves that state. Without it an edit that
      terminates on success would pay less than one that dallies before the goal.

    ## Starting State

    A latent from N(0, I), brought within the bounds; with `start="lacks_target"` drawn again while
    the classifier or the judge sees the target in it already. `reset(options={"latent": ...,
    "target": ...})` sets either.

    ## Episode End

    Truncated by the step limit (40 by default), which `gym.make` applies. With
    `terminate_on_success` it terminates once the edit may rest (see `success` above).

    ## Info

    `scores` (realism, start_realism, target, kept: each a probability), `target` (one-hot, see
    `env.unwrapped.schema.decode`), and after a step `rewards` and the judge's verdict on the edit
    so far: `is_success` (every target variant seen, realism not below the start's), `kept` (share
    of the other attributes seen unchanged) and `drift` (distance from the start latent). What
    counts is the verdict at the episode's end; the vector environment gives it there alone. The
    judge is never part of a reward.

    ## Arguments

    | Name | Default | Meaning |
    |---|---|---|
    | `backbone` | `"cartoon-faces"` | name, path, or `gan_backbones.Backbone` |
    | `target` | `None` | variants wanted, as `{"hairColor": "a55728"}`; or a list of attributes, one of which is drawn per episode with a variant; `None`: any attribute |
    | `directions` | `"attributes"` | `"coordinates"`, `"pca"`, `"sefa"`, `"attributes"` (see `gan_backbones.latents.directions`), or a matrix `[K, d]` as nested lists |
    | `num_directions` | `None` | number of PCA or SeFa directions; `None`: 24, or as many as there are |
    | `num_probes` | 2048 | number of random images that `"pca"` and `"attributes"` directions are fitted to, at the first use of a backbone; the result is kept on disk |
    | `delta` | 0.5 | length of a nudge |
    | `latent_bound` | 3.0 | each coordinate is clipped to plus and minus this; or `"sphere"`: the latent is put back onto the sphere of radius sqrt(d), near which N(0, I) lies |
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
    | `label` | `None` | for a backbone whose generator is conditional (a conditional VAE's decoder): the label its images are made of, as `{"digit": "7"}`, a variant for every attribute; held fixed, while the latent is edited |
    | `render_mode` | `None` | `"human"` or `"rgb_array"` |

    ## Version History

    - v0: first version.
    """  # noqa: D415, E501


class LatentEditVectorEnv(EditVectorEnv):
    """Many edits at once: see :class:`LatentEditEnv` and `EditVectorEnv`."""
