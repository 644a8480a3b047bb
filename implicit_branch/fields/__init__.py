"""Signed distance, density, radiance and material in canonical space."""
