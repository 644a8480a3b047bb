"""Shared Python that knows neither teacher nor student."""
