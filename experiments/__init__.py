"""What goes beyond the lesson: many seeds, statistics, pictures. The lesson doesn't use it."""

from support.errors import check_installed

check_installed("requirements.txt", "experiments/requirements.txt")
