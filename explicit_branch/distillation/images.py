"""Image distillation: the student's G-buffer agrees with the teacher's maps of the same frame."""

from torch import Tensor

from core.frames import Frame, GBuffer, world_to_opengl_normals
from core.losses import masked_l1, masked_mean


def map_losses(buffer: GBuffer, maps: Frame, mask: Tensor) -> dict[str, Tensor]:
    """Terms by the name of their weight, where ``mask`` [H, W] > 0.5; maps that do not exist are left out.

    ``distill_image``: L1 of the encoded normals (n + 1) / 2 and of albedo; ``distill_image_rm``: squared differences of
    roughness and metallic.
    """
    normal, albedo, rough = [], [], []
    if maps.normal is not None:
        covered = mask * (maps.normal.square().sum(-1) > 0.25)
        student = world_to_opengl_normals(buffer.normal, maps.camera)
        normal.append(0.5 * masked_l1(student, maps.normal, covered))
    if maps.albedo is not None:
        albedo.append(masked_l1(buffer.albedo, maps.albedo, mask))
    pairs = ((buffer.roughness, maps.roughness), (buffer.metallic, maps.metallic))
    rough = [masked_mean((student - teacher) ** 2, mask) for student, teacher in pairs if teacher is not None]
    terms = {"distill_image": normal + albedo, "distill_image_rm": rough}
    return {name: sum(parts[1:], parts[0]) for name, parts in terms.items() if parts}
