"""Each mutant has something to change, and it changes that."""

import ast

import mutants


def test_each_mutant_changes_a_program():
    code = {}
    for program in mutants.PROGRAMS:
        nodes = ast.parse((mutants.ROOT / program).read_text()).body
        code |= {
            node.name: ast.unparse(node) for node in nodes if hasattr(node, "name")
        }
    for name, old, new in mutants.MUTANTS:
        assert code[name].count(old) == 1, (name, old)
        ast.parse(code[name].replace(old, new))


def test_a_mutant_is_the_source_with_its_change():
    source = "def f(x):\n    return x + 1  # one more\n\n\ny = f(1)\n"
    changed = mutants.mutate(source, "f", "x + 1", "x - 1")
    assert changed == "def f(x):\n    return x - 1\ny = f(1)"
    assert mutants.mutate(source, "g", "x", "y") == ast.unparse(ast.parse(source))
