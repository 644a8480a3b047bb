"""Datasets, image and HDR files, converters, and the generator of the embedded subject."""
