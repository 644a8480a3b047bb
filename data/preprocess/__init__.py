"""Converters from raw captures to the layouts that the readers take."""
