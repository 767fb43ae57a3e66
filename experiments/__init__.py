"""What goes past the lesson: many seeds, statistics, pictures. Nothing else imports it."""

from support.errors import check_installed

check_installed("requirements.txt", "experiments/requirements.txt")
