"""A pattern that is accepted finds the same in RE2 and in Python's `re`."""

import re

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_contracts.patterns import check_pattern, python_pattern

ACCEPTED = [
    r"^\d+$",
    r"\w\s\w",
    r"^[^\s]+$",
    r"\D",
    r"\W$",
    r"\S",
    r"[\d$]",
    r"(a|b)+$",
    r"(?:a|b)$",
    r"\\$",
    r"\$",
    r"a{2,}",
]
ACCEPTED += [r"[]a]", r"[^]a$]", r"\(a\)", "é+", ".", "^.$", r"\.", "a|$", r"[\w-]"]


@pytest.mark.parametrize("pattern", ACCEPTED)
@given(text=st.text(st.sampled_from("aba0١é \n\v\t$\\]()._-K"), max_size=6) | st.text(max_size=4))
def test_both_engines_find_the_same(pattern, text):
    check_pattern(pattern)
    in_re2 = pc.match_substring_regex(pa.array([text]), pattern)[0].as_py()
    assert in_re2 == bool(re.search(python_pattern(pattern), text))


@given(st.text(st.sampled_from("ab\\dDsSwW[]^$()|*+?{},1-.:"), max_size=8), st.text("ab1 \n$-", max_size=4))
def test_whatever_is_accepted_finds_the_same(pattern, text):
    try:
        check_pattern(pattern)
    except ValueError:
        return
    in_re2 = pc.match_substring_regex(pa.array([text]), pattern)[0].as_py()
    assert in_re2 == bool(re.search(python_pattern(pattern), text))


@pytest.mark.parametrize(
    "pattern",
    ["(?i)a", "a{,3}", "[[:alpha:]]", r"\bfoo", r"(a)\1", "(", r"[^\S]", "a++", r"\pL", r"\u0041", "(?=a)", "(?P<n>a)"],
)
def test_what_the_engines_read_differently_is_refused(pattern):
    with pytest.raises(ValueError, match=r"."):
        check_pattern(pattern)
