"""What the student learns from the teacher: points, images, light."""
