"""The generator of the embedded subject (optional packages: anny, mitsuba)."""
