"""SMPL-format bodies: safe loading, skinning, the nine parts and the canonical poses."""
