"""The pages say what the program does."""

import re

import pytest
from conftest import ROOT

EXCERPTS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("excerpt", EXCERPTS, ids=lambda excerpt: excerpt.split("\n")[0].strip())
def test_the_excerpts_of_the_lesson_are_lines_of_run(excerpt):
    assert excerpt.strip()
    assert excerpt in (ROOT / "run.py").read_text()


def test_the_lesson_quotes_run_and_names_no_file_that_is_not_there():
    assert len(EXCERPTS) >= 9
    for page in (ROOT / "README.md", ROOT / "experiments" / "README.md"):
        links = re.findall(r"\]\(([^)#:]+)[)#]", page.read_text())
        assert links
        for link in links:
            assert (page.parent / link).exists(), link
