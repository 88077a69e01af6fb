"""The next step in the words of whoever asked: `--model` on the command line, `model` in Python.

Every text is written once, with the options of the command line. The functions of the Python API
say the same with their own parameters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from bncheck.core.alone import alone
from bncheck.core.errors import BncheckError

P = ParamSpec("P")
T = TypeVar("T")

#: An option, and a number, placeholder or choice that follows it.
_OPTION: Final = re.compile(
    r"(?<![\w-])--(?P<name>[a-z]+(?:-[a-z]+)*)"
    r"(?:[ =](?P<value>-?\d[\w,.+-]*(?<![.,])|[A-Z]{2}[A-Z:,]*(?<![:,])|all|batch|cpu|last|eval)"
    r"(?=[\s;,.:)]|$))?"
)
#: What options are called that have another name in Python, the first that a function takes.
_CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    "model-arg": ("model_args",),
    "input": ("example_inputs", "inputs"),
    "part": ("part", "parts"),
    "static-batch": ("dynamic_batch=False",),
    "dynamic-batch": ("dynamic_batch=True",),
    "no-fold": ("fold=False",),
}
#: What `--data` is prepared with: fields of DataOptions.
_OF_DATA: Final = frozenset(
    ("batch_size", "max_samples", "scale", "mean", "std", "size", "grey"),
)


def in_python(function: Callable[P, T]) -> Callable[P, T]:
    """The function, alone in its process, whose errors speak of its parameters, not of options."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with alone():
                return function(*args, **kwargs)
        except BncheckError as error:
            known = inspect.signature(function).parameters
            error.sentence = said_in_python(error.sentence, known)
            error.hint = said_in_python(error.hint, known)
            error.subject = said_in_python(error.subject, known)
            error.args = (error.sentence, error.hint, error.subject)
            raise

    return call


def said_in_python(text: str, parameters: Mapping[str, inspect.Parameter]) -> str:
    """A text with the parameters of a function in the place of options."""
    return _OPTION.sub(lambda match: _parameter(match["name"], match["value"], parameters), text)


def _parameter(option: str, value: str | None, parameters: Mapping[str, inspect.Parameter]) -> str:
    plain, literal = option.replace("-", "_"), _literal(value)
    for called in _CALLED.get(option, (plain,)):
        name, _, fixed = called.partition("=")
        if name not in parameters:
            continue
        if name == "inputs" and literal:
            return f'inputs=["{value}"]'
        is_flag = parameters[name].annotation in (bool, "bool")
        given = fixed or literal or ("True" if is_flag else "")
        return f"{name}={given}" if given and name != "example_inputs" else f"`{name}`"
    if plain in _OF_DATA and "data_options" in parameters:
        return f"data_options=DataOptions({plain}={literal or '...'})"
    return f"--{option}{f' {value}' if value else ''} of the command line"


def _literal(value: str | None) -> str:
    """Several numbers are a tuple, choices are strings."""
    if not value or value == "TARGET:CALLABLE":
        return ""
    if value.isupper():
        return value
    if value[0].isalpha():
        return f'"{value}"'
    return f"({value})" if "," in value else value
