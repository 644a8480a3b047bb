"""How surfels follow the body."""
