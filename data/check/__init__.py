"""Validates a dataset folder and shows its bodies over its images: ``python -m data.check FOLDER``."""
