"""The real-time renderer: light, occlusion probes, shading, rasterisation."""
