"""Skinning of the canonical field, correspondence search and pose refinement."""
