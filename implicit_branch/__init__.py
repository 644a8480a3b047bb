"""The teacher: a neural field of shape, radiance and material, rendered by volumetric path tracing."""
