"""The contract of a backbone, as a test for whoever brings one."""

from __future__ import annotations

import contextlib
import pickle
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from gan_backbones.backbone import Backbone, BackboneError
from gan_backbones.latents.sampling import draw_latents
from gan_backbones.networks import KINDS
from gan_backbones.networks.inference import fold
from gan_backbones.utils.devices import plain_mode

TOLERANCE = 1e-4
"""How far equal outputs may lie apart, relative to the largest: kernels round differently at
different batch sizes."""

COUNT = 16
"""How many latents are tried."""


@plain_mode()
def check_backbone(backbone: Backbone, seed: int = 0) -> None:
    """Check all that environments and agents rely on; silent if it holds.

    To be run once, in the tests of whoever brings a backbone, in the manner of Gymnasium's
    ``check_env``. It makes some 50 images. Best on the CPU: GPUs that compute in TF32 round more
    coarsely than is tolerated here. The rules:

    - ``latent_dim`` is a positive int; classifier and judge come with a schema and have one logit
      per variant.
    - All networks are in evaluation mode, and no parameter requires a gradient.
    - Images are float32 ``[N, 1 or 3, H, W]`` in [-1, 1], realism logits ``[N]``, attribute logits
      ``[N, schema.size]``; all float32 and finite.
    - Deterministic: the same inputs give the same outputs.
    - Each output depends on its own input alone: not on its neighbours, order or size of the batch.
    - Different latents give different images. Some of their pixels are darker than grey: images of
      [0, 1] would look washed out. (Generators of `gan_backbones.networks` are in [-1, 1].)
    - Inputs, parameters, buffers and the global random states stay as they were.
    - A copy, prepared as environments prepare it, does the same.

    Args:
        backbone: what to check.
        seed: of the latents.

    Raises:
        BackboneError: the first rule that is broken; one line says which network breaks it, what
            was found and what is expected.
    """
    check_latent_dim(backbone.latent_dim)
    for role, network in backbone.networks.items():
        _check_frozen(role, network)
    inputs = sample_inputs(backbone, COUNT, seed)
    for role, network in backbone.networks.items():
        with _leaves_no_trace(role, network):
            outputs = _check_function(backbone, role, network, inputs)
        if role == "generator":
            _check_lively(outputs)
            if type(network) not in KINDS["generator"]:  # those end in tanh
                _check_value_range(outputs)
            inputs = outputs


def check_latent_dim(latent_dim: object) -> None:
    """Check that it is a positive int.

    Raises:
        BackboneError: it is not.
    """
    if not isinstance(latent_dim, int) or isinstance(latent_dim, bool) or latent_dim < 1:
        raise BackboneError(f"latent_dim is {latent_dim!r}; expected a positive int")


def sample_inputs(backbone: Backbone, count: int, seed: int = 0) -> torch.Tensor:
    """Draw latents ``[count, latent_dim]`` on the generator's device."""
    own = [*backbone.generator.parameters(), *backbone.generator.buffers()]
    latents = draw_latents(count, backbone.latent_dim, seed)
    return latents.to(own[0].device if own else "cpu")


def run(backbone: Backbone, role: str, network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """The outputs of ``network``, after a check of their shape, dtype and range.

    Args:
        backbone: whose ``role`` it is.
        role: what ``network`` is, or stands in for.
        network: what to run.
        inputs: latents for a generator, else images.

    Raises:
        BackboneError: see :func:`check_backbone`; or the network raised an error.
    """
    tensors = [*network.parameters(), *network.buffers()]
    if any(tensor.is_meta for tensor in tensors):
        raise BackboneError(
            f"the {role} is on the meta device, which holds no values; expected its weights on "
            "another device"
        )
    if role in ("classifier", "judge") and backbone.schema is None:
        raise BackboneError(f"the {role} has no schema; expected one that names its outputs")
    try:
        with torch.no_grad():
            outputs = network(inputs)
    except Exception as error:
        message = " ".join(str(error).split())
        raise BackboneError(
            f"the {role} fails on inputs of shape {tuple(inputs.shape)}: {message}"
        ) from error
    if not isinstance(outputs, torch.Tensor):
        raise BackboneError(f"the {role} returns a {type(outputs).__name__}; expected a tensor")
    _check_shape(backbone, role, tuple(outputs.shape), len(inputs))
    if outputs.dtype != torch.float32:
        raise BackboneError(f"the {role} returns {outputs.dtype}; expected torch.float32")
    if not outputs.isfinite().all():
        raise BackboneError(f"the {role} returns values that are not finite")
    if role == "generator" and outputs.abs().max() > 1 + 1e-6:
        low, high = outputs.min().item(), outputs.max().item()
        raise BackboneError(
            f"the generator returns values from {low:.3g} to {high:.3g}; expected -1 to 1"
        )
    return outputs


def _check_shape(backbone: Backbone, role: str, shape: tuple[int, ...], count: int) -> None:
    if role == "generator":
        fits = len(shape) == 4 and shape[0] == count and shape[1] in (1, 3)
        expected = f"({count}, C, H, W) with C 1 or 3"
    elif role == "discriminator":
        fits, expected = shape == (count,), f"({count},)"
    else:
        assert backbone.schema is not None
        size = backbone.schema.size
        fits = shape == (count, size)
        expected = f"({count}, {size}), as the schema has {size} variants"
    if not fits:
        raise BackboneError(f"the {role} returns shape {shape}; expected {expected}")


def _check_frozen(role: str, network: nn.Module) -> None:
    # Frozen TorchScript modules lack `training`.
    training = [n for n, m in network.named_modules() if getattr(m, "training", False)]
    if training:
        raise BackboneError(
            f"the {role} is in training mode ({training[0] or 'itself'}); expected evaluation "
            "mode: call .eval()"
        )
    trainable = [name for name, p in network.named_parameters() if p.requires_grad]
    if trainable:
        raise BackboneError(
            f"the {role} has parameters that require gradients ({trainable[0]}); expected none: "
            "call .requires_grad_(False)"
        )


def _check_function(
    backbone: Backbone, role: str, network: nn.Module, inputs: torch.Tensor
) -> torch.Tensor:
    """Check that a network is a function of each input alone; returns the outputs."""

    def outputs_of(batch: torch.Tensor) -> torch.Tensor:
        return run(backbone, role, network, batch)

    def check_equal(found: torch.Tensor, expected: torch.Tensor, how: str) -> None:
        apart = (found - expected).abs().max().item()
        if apart > allowed:
            raise BackboneError(
                f"the {role} {how} lie {apart:.2g} apart; expected at most {allowed:.2g}"
            )

    given = inputs.clone()
    outputs = outputs_of(inputs)
    allowed = TOLERANCE * outputs.abs().max().item()
    if not torch.equal(inputs, given):
        raise BackboneError(f"the {role} changes its inputs in place")
    check_equal(outputs_of(given), outputs, "is not deterministic: outputs of the same inputs")
    companies: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "in reverse order": lambda batch: batch.flip(0),
        "in a smaller batch": lambda batch: batch[: COUNT // 3],
        "alone": lambda batch: batch[:1],
    }
    for company, select in companies.items():
        depends = f"depends on the rest of the batch: outputs of inputs {company}"
        check_equal(outputs_of(select(given)), select(outputs), depends)
    try:
        folded = fold(network)
    except Exception as error:
        raise BackboneError(f"the {role} cannot be copied: {error}") from error
    copied = run(backbone, role, folded, given)
    check_equal(copied, outputs, "does not survive copying: outputs of a copy")
    return outputs


def _check_lively(images: torch.Tensor) -> None:
    apart = (images - images[:1]).abs().max().item()
    if apart <= TOLERANCE:
        raise BackboneError(
            f"the generator makes the same image of different latents: {len(images)} lie "
            f"{apart:.2g} apart; expected more than {TOLERANCE:.2g}"
        )


def _check_value_range(images: torch.Tensor) -> None:
    low, high = images.min().item(), images.max().item()
    if low >= 0:
        raise BackboneError(
            f"the generator returns values from {low:.3g} to {high:.3g}, none below 0; expected -1 "
            "(black) to 1 (white): if 0 is black, pass value_range=(0, 1) to wrap"
        )


@contextlib.contextmanager
def _leaves_no_trace(role: str, network: nn.Module) -> Iterator[None]:
    own = dict([*network.named_parameters(), *network.named_buffers()])
    before = {name: tensor.clone() for name, tensor in own.items()}
    states = _global_random_states()
    yield
    for name, tensor in own.items():
        if not torch.equal(tensor, before[name]):
            raise BackboneError(f"the {role} changes its own {name} as it runs; expected no change")
    for library, state in _global_random_states().items():
        if state != states[library]:
            raise BackboneError(
                f"the {role} changes the global random state of {library}; expected no change"
            )


def _global_random_states() -> dict[str, bytes]:
    states = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),  # noqa: NPY002  (the global one is the point)
        "random": pickle.dumps(random.getstate()),
    }
    for i, state in enumerate(
        torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ()
    ):
        states[f"torch.cuda, device {i}"] = state.numpy().tobytes()
    return states
