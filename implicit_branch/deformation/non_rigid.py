"""Pose-dependent offsets in canonical space, and the pose encodings that condition them."""

import math

import torch
from torch import Tensor, nn

from body_models.skeleton import PARENTS
from core.frames import BodyPose
from core.rotation import axis_angle_to_matrix

JOINT_FEATURES = 6


class PoseEncoding(nn.Module):
    """Encodes poses as the condition of non-rigid offsets; this one is empty."""

    features = 0

    def forward(self, pose: BodyPose, joints: Tensor) -> Tensor | None:
        """None, whatever the pose [B] and rest ``joints`` [24, 3]."""
        return None


class HierarchicalPoseEncoding(PoseEncoding):
    """LEAP's encoder along the kinematic tree (Mihajlovic et al. 2021): six numbers per joint."""

    features = len(PARENTS) * JOINT_FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Linear(len(PARENTS) * 12, JOINT_FEATURES)
        width = 9 + 3 + 1 + JOINT_FEATURES
        self.joints = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, JOINT_FEATURES)) for _ in PARENTS
        )

    def forward(self, pose: BodyPose, joints: Tensor) -> Tensor:
        """Encode ``pose`` [B] with rest ``joints`` [24, 3] to [B, 144]; global orientation does not enter."""
        rotations = axis_angle_to_matrix(pose.axis_angles).clone()
        rotations[:, 0] = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
        flat = rotations.flatten(2)
        places = joints.expand(flat.shape[0], -1, -1)
        encoded = [self.root(torch.cat([flat, places], -1).flatten(1))]
        features: list[Tensor] = []
        for joint, parent in enumerate(PARENTS):
            above = encoded[0] if parent < 0 else features[parent]
            bone = joints[joint] - (joints[parent] if parent >= 0 else joints[joint])
            length = bone.norm().expand(flat.shape[0], 1)
            features.append(self.joints[joint](torch.cat([flat[:, joint], places[:, joint], length, above], -1)))
        return torch.cat(features, -1)


POSE_ENCODINGS: dict[str, type[PoseEncoding]] = {"dummy": PoseEncoding, "leap": HierarchicalPoseEncoding}


class NonRigidOffsets(nn.Module):
    """x' = x + network(frequencies of x, pose): starts as the identity, frequencies open with a cosine window.

    The window is that of Park et al. 2021 (Nerfies); steps count in the 25 000-step reference schedule.
    """

    window: Tensor

    def __init__(
        self,
        *,
        condition_features: int,
        n_neurons: int = 256,
        n_hidden_layers: int = 5,
        skip_in: int = 4,
        multires: int = 6,
        start_step: int = 4000,
        window_steps: int = 8000,
    ) -> None:
        super().__init__()
        self.frequencies, self.start_step, self.window_steps = multires, start_step, window_steps
        self.skip_in, self.active = skip_in, False
        encoded = 6 * multires
        widths = [encoded + condition_features] + [n_neurons] * n_hidden_layers
        self.hidden = nn.ModuleList(
            nn.Linear(a + encoded * (k == skip_in), b) for k, (a, b) in enumerate(zip(widths[:-1], widths[1:]))
        )
        self.last = nn.Linear(n_neurons, 3)
        nn.init.uniform_(self.last.weight, -1e-5, 1e-5)
        nn.init.zeros_(self.last.bias)
        self.register_buffer("window", torch.zeros(multires))

    def open(self, reference_step: float) -> None:
        """Switch on, and open the frequencies, when due."""
        self.active = reference_step >= self.start_step
        progress = self.frequencies * (reference_step - self.start_step) / self.window_steps
        phase = (progress - torch.arange(self.frequencies, device=self.window.device)).clamp(0, 1)
        self.window.copy_(0.5 * (1 - torch.cos(math.pi * phase)))

    def forward(self, points: Tensor, condition: Tensor | None) -> Tensor:
        """Offsets [N, 3] in metres at canonical ``points`` [N, 3] under ``condition`` [N, C]."""
        scales = math.pi * 2.0 ** torch.arange(self.frequencies, dtype=points.dtype, device=points.device)
        phases = points[:, None] * scales[:, None]
        encoded = (torch.cat([phases.sin(), phases.cos()], -1) * self.window[:, None]).flatten(1)
        hidden = encoded if condition is None else torch.cat([encoded, condition], -1)
        for k, layer in enumerate(self.hidden):
            hidden = torch.relu(layer(torch.cat([hidden, encoded], -1) if k == self.skip_in else hidden))
        return self.last(hidden)

    def with_jacobian(self, points: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """Moved points [N, 3] and d moved / d points [N, 3, 3]; the Jacobian carries no gradient."""
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            moved = leaf + self(leaf, condition)
            rows = [torch.autograd.grad(moved[:, k].sum(), leaf, retain_graph=True)[0] for k in range(3)]
        return points + self(points, condition), torch.stack(rows, 1)
