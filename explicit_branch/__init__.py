"""The student: relightable Gaussian surfels driven by a body pose."""
