"""Mutants of the delivery code are made as promised, and their score is stored."""

import inspect
import json
from importlib import import_module
from pathlib import Path
from types import CodeType

import pytest

from tests.faults import mutation
from tests.faults.mutants import functions_of, marked_codes, mutants_of, mutated_code

SOURCE = '''
LIMIT = 3  # at module level: left as it is

class Counter:
    """Count."""

    step = 1

    def add(self, n: int | None = None) -> str:
        """Add to it."""
        if n is not None and n > 0:
            self.count += n
            logger.warning("added")
        assert self.count >= 0
        return super().name
'''
RESULT = json.loads(mutation.RESULT.read_text(encoding="utf-8"))


def test_only_operators_constants_and_statements_of_functions_are_changed():
    """No annotation, default, text for humans, assertion, or anything at module level."""
    assert [each.change for each in mutants_of(SOURCE)] == [
        "n is not None and n > 0 -> n > 0",
        "n is not None and n > 0 -> n is not None",
        "n is not None -> n is None",
        "n > 0 -> n >= 0",
        "n > 0 -> n <= 0",
        "0 -> 1",
        "self.count += n -> self.count -= n",
        "delete self.count += n",
        "return super().name -> return None",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", mutation.MODULES)
def test_each_mutant_can_replace_the_code_of_its_function(name):
    """Variables of outer scopes and the kind of the function stay; its code is another."""
    source = Path(inspect.getsourcefile(import_module(mutation.MODULES[name]))).read_text()
    before = functions_of(compile(source, "file", "exec"))
    found = mutants_of(source)
    assert len({(each.function, each.change) for each in found}) == len(found)
    for each in found[::9]:
        after = mutated_code(source, "file", each)
        code = before[after.co_qualname, after.co_firstlineno]
        assert (code.co_freevars, code.co_argcount) == (after.co_freevars, after.co_argcount)
        assert code.co_flags & inspect.CO_GENERATOR == after.co_flags & inspect.CO_GENERATOR
        assert code != after, each
    assert marked_codes(source, "file").keys() == before.keys()


def test_a_changed_function_does_what_its_mutant_says():
    """Also behind a decorator: the function itself is replaced."""
    source = "def larger(a, b):\n    return a > b\n"
    space = {}
    exec(compile(source, "file", "exec"), space)
    mutant = next(each for each in mutants_of(source) if each.change == "a > b -> a >= b")
    assert not space["larger"](1, 1)
    space["larger"].__code__ = mutated_code(source, "file", mutant)
    assert space["larger"](1, 1)


def test_a_decorator_is_reached_by_the_tests_that_call_its_wrapper():
    """It was called itself when the module was imported, and no test does so again."""
    source = "def twice(call):\n    def wrapper():\n        return 2 * call()\n    return wrapper\n"
    reached = []
    space = {"_reached": reached.append}
    exec(compile(source, "file", "exec"), space)
    doubled = space["twice"](lambda: 21)
    marked = marked_codes(source, "file")["twice", 1]
    doubled.__code__ = next(each for each in marked.co_consts if isinstance(each, CodeType))
    assert (doubled(), reached) == (42, [("twice", 1)])


def test_the_stored_score_counts_each_mutant_once():
    """`mutation.json` is what `python -m tests.faults.mutation` writes, and the docs read."""
    assert {"retry", "buffer", "sender"} < set(RESULT["modules"]) <= set(mutation.MODULES)
    for name, module in RESULT["modules"].items():
        assert module["command"].startswith(f"python -m tests.faults.mutation {name}")
        assert module["mutants"] == module["killed"] + module["timeout"] + module["survived"]
        assert 0 < module["mutants"] <= module["of"]
        assert len(module["survivors"]) == module["survived"]
        judged = [each for each in module["survivors"] if each.get("equivalent")]
        assert module["equivalent"] == len(judged)


@pytest.mark.slow
@pytest.mark.parametrize("name", RESULT["modules"])
def test_each_stored_survivor_is_of_a_function_that_exists(name):
    """After a function is renamed or removed, the command above brings the file up to date."""
    source = Path(inspect.getsourcefile(import_module(mutation.MODULES[name]))).read_text()
    functions = {function for function, _ in functions_of(compile(source, "file", "exec"))}
    stored = {each["function"] for each in RESULT["modules"][name]["survivors"]}
    assert stored <= functions


def test_each_group_of_tests_exists():
    """A file that was renamed would no longer find any mutant."""
    for name in mutation.MODULES:
        files = mutation.tests_of(name, wider=True)
        assert [file for file in files if not Path(mutation.ROOT, file).is_file()] == []


def test_the_score_leaves_out_mutants_that_no_test_could_notice():
    """A mutant that ends in an endless loop was noticed as well."""
    module = {"killed": 6, "timeout": 2, "survived": 2, "mutants": 10, "equivalent": 1}
    assert mutation.score(module) == 8 / 9
