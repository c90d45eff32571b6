"""What a device can do, and modes of torch that callers may have set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


def usable_device(device: str | torch.device) -> torch.device:
    """The device, if torch can use it here.

    Raises:
        ValueError: an unknown device, or one that this machine or torch lacks.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device is {str(device)!r}; torch cannot use it: {reason}") from None
    return found


def computes_in_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there; emulated, it is up to thirty times slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in known)


@contextmanager
def plain_mode() -> Iterator[None]:
    """Create tensors on the CPU, with gradients and outside inference mode, in this thread.

    For code that must do the same whatever default device and grad mode its caller has set; these
    are restored at the end. The default dtype belongs to the whole process and stays as it is:
    such code names the dtype of each tensor that it creates.
    """
    # Only where it is needed: under such a context each call of torch is slower, and an interrupt
    # within it can leave torch's stack of modes broken.
    is_cpu = torch.get_default_device().type == "cpu"
    on_cpu = nullcontext() if is_cpu else torch.device("cpu")
    with on_cpu, torch.inference_mode(False), torch.enable_grad():
        yield
