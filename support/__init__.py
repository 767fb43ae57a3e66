"""What turns the lesson into a robust program.

It never imports the lesson: what it needs to know of it is handed to it.
"""

from support.errors import check_installed

check_installed("requirements.txt")
