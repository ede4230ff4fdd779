r"""Regular expressions that mean the same to both engines that judge rows: RE2 in DuckDB, and Python's `re` in pandas.

What the two read differently is either refused (`check_pattern`) or spelled out (`python_pattern`): `\d`, `\w` and
`\s` are ASCII as in RE2, and `$` is the very end of the text, not also the place before a last newline. Groups do not
capture: pandas warns of those that do.
"""

import re
import warnings

import pyarrow as pa
import pyarrow.compute as pc

_SHORTHANDS = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\f\r "}
_TOKEN = re.compile(r"\\.|\[\^?\]?|\(\??|.", re.DOTALL)
_DIFFERENT = {
    r"\(\?(?!:)": "groups with flags, names or look-around",
    r"\{,": "a count without a lower limit",
    r"\\[bBAzZ]": r"\b, \B, \A, \z and \Z",
    r"\\[1-9]": "back-references",
}


def check_pattern(pattern: str) -> None:
    """Raise ValueError, with the reason as its message, unless both engines read `pattern` alike."""
    if "\x00" in pattern:
        raise ValueError("it holds a zero byte")
    for different, what in _DIFFERENT.items():
        if re.search(r"(?<!\\)(?:\\\\)*" + different, pattern):
            raise ValueError(f"{what}: not supported")
    try:
        pc.match_substring_regex(pa.array([""]), pattern)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(python_pattern(pattern))
    except (re.error, FutureWarning, DeprecationWarning, pa.ArrowInvalid, RecursionError, OverflowError) as exc:
        raise ValueError(" ".join(str(exc).split())) from exc


def python_pattern(pattern: str) -> str:
    """Return the pattern with which Python's `re` finds what RE2 finds with `pattern`.

    Raises:
        ValueError: a negated shorthand or a bracket stands in a class.
    """
    spelled, in_class = [], False
    for token in _TOKEN.findall(pattern):
        spelled.append(_spell(token, in_class))
        if token.startswith("[") and not in_class:
            in_class = True
        elif token == "]":
            in_class = False
    return "".join(spelled)


def _spell(token: str, in_class: bool) -> str:
    if not in_class and token in ("$", "("):
        return {"$": r"\Z", "(": "(?:"}[token]
    if in_class and token.startswith("["):
        raise ValueError("'[' in a class is not supported: write it as '\\['")
    characters = _SHORTHANDS.get(token[1:].lower()) if token.startswith("\\") else None
    if characters is None:
        return token
    is_negated = token[1].isupper()
    if in_class and is_negated:
        raise ValueError(f"{token} in a class is not supported")
    if in_class:
        return characters
    return f"[^{characters}]" if is_negated else f"[{characters}]"
