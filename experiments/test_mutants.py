"""Each mutant changes a program, and one of them is found."""

import ast

import mutants
import pytest


@pytest.mark.parametrize("name, old, new", mutants.MUTANTS)
def test_a_mutant_changes_a_program(name, old, new):
    sources = [(mutants.ROOT / program).read_text() for program in mutants.PROGRAMS]
    changed = [mutants.mutate(source, name, old, new) for source in sources]
    assert changed != [ast.unparse(ast.parse(source)) for source in sources]
