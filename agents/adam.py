"""Adam for one vector of parameters."""

from __future__ import annotations

import torch
from torch.optim.adam import adam


class Adam:
    """Adam (Kingma and Ba 2015) on a vector and its gradient.

    One call of torch's own kernel. What `torch.optim.Adam.step` does around it takes three times as
    long as the kernel, for networks as small as an agent's.

    Args:
        parameters: float32 ``[P]``, with a gradient.
        learning_rate: step size; may be changed at any time.

    Attributes:
        moments: running means of the gradient and of its square.
        steps: how many were taken, a float32 scalar.
    """

    def __init__(self, parameters: torch.Tensor, learning_rate: float):
        self.parameters, self.learning_rate = parameters, learning_rate
        self.moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self.steps = torch.zeros((), device=parameters.device)

    def step(self, divisor: torch.Tensor | None = None) -> None:
        """Move the parameters against their gradient, which is divided by ``divisor`` before."""
        adam(
            [self.parameters],
            [self.parameters.grad],
            [self.moments[0]],
            [self.moments[1]],
            [],
            [self.steps],
            fused=True,
            grad_scale=divisor,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def get_state(self) -> dict[str, torch.Tensor]:
        """Moments and steps, to go on from."""
        return {"mean": self.moments[0], "mean_square": self.moments[1], "steps": self.steps}

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what :meth:`get_state` gave."""
        for mine, name in zip(
            (*self.moments, self.steps), ("mean", "mean_square", "steps"), strict=True
        ):
            mine.copy_(state[name])
