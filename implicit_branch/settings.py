"""Settings of the teacher that are plain numbers and switches."""

from dataclasses import dataclass, field

from implicit_branch.sampling.rays import PrimarySampling

RENDER_MODES = ("uniform_light", "light", "mats", "mis")


@dataclass(frozen=True)
class ProxySettings:
    """The canonical mesh that stands in for the field, and the space around it that rays visit."""

    initial_offset: float = 0.015
    """Metres by which the body's vertices move out for the first proxy (clothing)."""
    resolution: int = 192
    """Marching-cubes cells along the longest side."""
    interval: int = 500
    """Steps of the reference schedule between extractions."""
    start_step: int = 2000
    """Step of the reference schedule of the first extraction."""
    initial_radius: float = 0.07
    """Metres around the first proxy that may hold surface."""
    radius: float = 0.045
    """Metres around an extracted proxy that may hold surface."""
    seed_resolution: int = 64
    """Cells of the seed grid along each axis."""


@dataclass(frozen=True)
class ShadingSettings:
    """Monte-Carlo shading."""

    samples_per_pixel: int = 512
    render_mode: str = "uniform_light"
    """Directions: ``uniform_light`` (stratified, cosine-weighted), ``light``, ``mats`` (by the BRDF) or ``mis``."""
    global_illumination: bool = True
    """Rays that hit the body bring back its radiance (one bounce)."""
    resample_light: bool = True
    """Draw new directions for every image; False repeats the same ones (smooth videos)."""
    add_emitter: bool = False
    """Show the light behind the body instead of white."""
    near: float = 0.004
    """Metres; hits closer than this to the shaded point are its own surface."""
    far: float = 1.5
    """Metres beyond which nothing of the body can be hit."""
    chunk: int = 160_000
    """Secondary rays traced at once."""

    def __post_init__(self) -> None:
        if self.render_mode not in RENDER_MODES:
            raise ValueError(f"render_mode: found {self.render_mode!r}, expected one of {RENDER_MODES}")


@dataclass(frozen=True)
class TeacherSettings:
    """Everything about rendering that is not a component."""

    sampling: PrimarySampling = field(default_factory=PrimarySampling)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    shading: ShadingSettings = field(default_factory=ShadingSettings)
    supersampling: int = 2
    """Primary rays along each edge of a rendered pixel; they share its Monte-Carlo samples."""
    ray_chunk: int = 4096
    """Primary rays evaluated at once when an image is rendered."""
    phys_kick_in_step: int = 10_000
    """Step of the reference schedule at which physically based rendering begins."""
    importance_sample_kick_in_step: int = 1000
    """Step of the reference schedule from which importance rounds are used."""
