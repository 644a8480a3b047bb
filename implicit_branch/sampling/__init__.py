"""Which pixels are trained and where along a ray the field is evaluated."""
