import math
import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from gan_backbones.training.augment import (
    POLICIES,
    augment,
    check_policies,
    color,
    cutout,
    translation,
)

ALL = tuple(POLICIES)
CHANNELS = pytest.mark.parametrize("channels", [1, 3])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(count, channels=3, side=16, dtype=torch.float32):
    return torch.rand(count, channels, side, side, generator=rng(9), dtype=dtype) * 2 - 1


@CHANNELS
@pytest.mark.parametrize("side", [32, 64, 128])
def test_shape_and_type_stay_and_pictures_change(channels, side):
    images = random_images(4, channels, side)
    before = images.clone()
    for policies in [(policy,) for policy in ALL] + [ALL]:
        changed = augment(images, policies, rng())
        assert changed.shape == images.shape and changed.dtype == images.dtype
        assert (changed != images).flatten(1).any(dim=1).all()
        assert torch.equal(images, before)
    assert augment(images, (), rng()) is images


@CHANNELS
@pytest.mark.parametrize("policies", [*((policy,) for policy in ALL), ALL])
def test_gradients_pass_through_twice(policies, channels):
    images = random_images(1, channels, 8, torch.double).requires_grad_()

    def squares(images):
        return augment(images, policies, rng(3)).square()

    assert gradcheck(squares, images, fast_mode=True)
    assert gradgradcheck(squares, images, fast_mode=True)


def test_draws_come_from_the_generator_alone_and_differ_from_call_to_call():
    images, state = random_images(8), torch.get_rng_state()
    shared = rng()
    real, fake = augment(images, ALL, shared), augment(images, ALL, shared)
    assert not torch.equal(real, fake)
    assert torch.equal(augment(images, ALL, rng()), real)
    assert torch.equal(torch.get_rng_state(), state)


@CHANNELS
def test_real_and_generated_images_get_the_same_distribution(channels):
    """Two draws of many: each pixel's mean and spread agree within their standard errors."""
    count = 4000
    images = random_images(1, channels, 8).expand(count, -1, -1, -1)
    shared = rng()
    first, second = augment(images, ALL, shared), augment(images, ALL, shared)
    error = ((first.var(dim=0) + second.var(dim=0)) / count).sqrt()
    assert ((first.mean(dim=0) - second.mean(dim=0)).abs() < 5 * error).all()
    spread = first.std(dim=0) / second.std(dim=0)
    assert (spread - 1).abs().max() < 0.15


def test_color_is_brightness_then_saturation_then_contrast():
    images = random_images(2)
    draws = torch.rand(3, 2, generator=rng())
    for image, changed, (b, s, c) in zip(images, color(images, rng()), draws.T, strict=True):
        image = image + b - 0.5
        image = torch.lerp(image.mean(dim=0, keepdim=True).expand_as(image), image, 2 * s)
        image = torch.lerp(image.mean().expand_as(image), image, c + 0.5)
        torch.testing.assert_close(changed, image)


def test_color_keeps_grey_pictures_grey():
    grey = random_images(3, 1)
    changed = color(grey.expand(-1, 3, -1, -1), rng())
    torch.testing.assert_close(changed, changed[:, :1].expand_as(changed))
    torch.testing.assert_close(changed[:, :1], color(grey, rng()))


@CHANNELS
def test_translation_shifts_whole_pixels_and_fills_with_grey(channels):
    count, side, most = 600, 16, 2
    images = random_images(1, channels, side).expand(count, -1, -1, -1)
    padded = torch.nn.functional.pad(images[0], (most,) * 4)
    shifts = {
        (y, x): padded[:, y : y + side, x : x + side]
        for y in range(2 * most + 1)
        for x in range(2 * most + 1)
    }
    seen = []
    for image in translation(images, rng()):
        (shift,) = [key for key, candidate in shifts.items() if torch.equal(candidate, image)]
        seen.append(shift)
    expected = count / len(shifts)
    for shift in shifts:  # all 25, equally often
        assert abs(seen.count(shift) - expected) < 5 * math.sqrt(expected)


@CHANNELS
def test_cutout_blanks_one_square_of_half_the_side(channels):
    count, side = 400, 16
    images = torch.ones(count, channels, side, side)
    holes = cutout(images, rng()) == 0
    assert torch.equal(holes, holes[:, :1].expand_as(holes))  # the same in every channel
    holes = holes[:, 0]
    rows, columns = holes.any(dim=2), holes.any(dim=1)
    assert torch.equal(holes, rows[:, :, None] & columns[:, None, :])
    for lengths, lines in ((rows.sum(dim=1), rows), (columns.sum(dim=1), columns)):
        assert set(lengths.tolist()) == {4, 5, 6, 7, 8}  # half of it at least is inside
        assert (lines.int().diff(dim=1) != 0).sum(dim=1).max() <= 2  # in one piece
    assert (holes.float().mean(dim=0) > 0).all()  # any pixel may be hit


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        (["colour"], "policy 'colour' is unknown; allowed: color, translation, cutout"),
        (["color", "cutout", "color"], "policy 'color' is named twice; each may be used once"),
    ],
)
def test_other_policies_are_refused(policies, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_policies(policies)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        augment(random_images(1), policies, rng())
