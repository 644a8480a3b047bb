"""Converters from raw captures, motions and pose estimates to the project's layouts; see DATASET.md."""
