"""Global states of torch that callers may have set."""

from contextlib import contextmanager

import torch


@contextmanager
def float64():
    """The default dtype is float64 inside."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
