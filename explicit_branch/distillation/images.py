"""Image distillation: the student's G-buffer agrees with the teacher's maps of the same frame."""

from torch import Tensor

from core.frames import GBuffer
from explicit_branch.observation import Observation


def map_losses(buffer: GBuffer, seen: Observation, weights: dict[str, float]) -> dict[str, Tensor]:
    """Terms by the name of their weight, means over the mask, as far as they have a weight and their maps exist.

    ``distill_image``: L1 of the encoded normals (n + 1) / 2 and of albedo; ``distill_image_rm``: squared differences of
    roughness and metallic.
    """
    maps = seen.maps
    if maps is None:
        return {}
    terms: dict[str, list[Tensor]] = {"distill_image": [], "distill_image_rm": []}
    if weights["distill_image"] and maps.normal is not None:
        difference = (buffer.normal @ seen.view_axes - maps.normal).abs()
        terms["distill_image"].append((difference.mean(-1) * seen.inside_with_normal).sum() / 2)
    if weights["distill_image"] and maps.albedo is not None:
        terms["distill_image"].append(((buffer.albedo - maps.albedo).abs().mean(-1) * seen.inside).sum())
    pairs = ((buffer.roughness, maps.roughness), (buffer.metallic, maps.metallic))
    given = [(student, teacher) for student, teacher in pairs if teacher is not None and weights["distill_image_rm"]]
    terms["distill_image_rm"] = [((student - teacher).square() * seen.inside).sum() for student, teacher in given]
    return {name: sum(parts[1:], parts[0]) for name, parts in terms.items() if parts}
