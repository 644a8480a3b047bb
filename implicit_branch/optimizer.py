"""Adam, with a rule of its own for tables of pose residuals."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

AXES = 3
"""Numbers of a joint's rotation, or of a translation."""


class TeacherAdam(torch.optim.Adam):
    """Adam; groups that are marked ``by_joint`` hold tables [F, 3 J] of which a step sees few rows.

    Their rows move against the gradient over its root mean square, which all rows and the axes of a joint share. Adam's
    own moments would give an axis that no image shows (the twist of a limb, the depth of a hand) as long steps as those
    that images fix, so that it wanders; and rows that a step does not see would go on by old gradients, and dilute the
    second moment. Nothing waits for the device.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of all groups."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group.get("by_joint", False):
                for table in group["params"]:
                    self._move(table, group)
        super().step()
        return loss

    def _move(self, table: Tensor, group: dict[str, Any]) -> None:
        if table.grad is None:
            return
        gradient = table.grad.unflatten(1, (-1, AXES))
        seen = (gradient != 0).flatten(1).any(1)[:, None, None]
        gradient = torch.where(seen, gradient + group["weight_decay"] * table.unflatten(1, (-1, AXES)), 0)
        state, decay = self.state[table], group["betas"][1]
        if not state:
            state["step"] = torch.zeros((), device=table.device)
            state["square"] = torch.zeros(gradient.shape[1], device=table.device)
        square = gradient.square().sum((0, 2)) / (AXES * seen.sum()).clamp_min(1)
        state["step"] += 1
        state["square"].lerp_(square, 1 - decay)
        size = (state["square"] / (1 - decay ** state["step"])).sqrt() + group["eps"]
        table -= (group["lr"] * gradient / size[:, None]).flatten(1)
        table.grad = None  # Adam's own rule skips it
