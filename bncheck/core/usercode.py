"""Running other people's Python: find what TARGET:CALLABLE names, and survive what it does.

User code may print, call sys.exit or raise. What it prints goes to stderr, because stdout is the
report; what it raises becomes one line with the file and line it came from.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from bncheck.core.arguments import check_call, parse_arguments
from bncheck.core.errors import BncheckError, TerminatedError
from bncheck.core.extras import explained
from bncheck.core.importable import folders_of, importable, is_path, root_of
from bncheck.core.words import nearest, shortened

_PACKAGE = str(Path(__file__).resolve().parents[1])


def resolve(spec: str, option: str) -> object:
    """The object that `package.module:name` or `path/to/file.py:name` names."""
    target, colon, name = spec.rpartition(":")
    if not colon or not target or not name:
        raise BncheckError(f"{option} {spec!r} is not TARGET:CALLABLE", _spelling(spec, option))
    subject = f"{option} {spec}"
    with running(subject), importable(target):
        try:
            found: object = _import(target)
        except BncheckError as error:
            raise error.about(subject) from None
        except ImportError as error:
            if not is_path(target) or "relative import" not in str(error):
                raise
            raise _relative(Path(target), name, option).about(subject) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise _no_attribute(subject, target, part, found)
        found = getattr(found, part)
    return found


def _spelling(spec: str, option: str) -> str:
    """How what is meant would be written; a file is looked through and not run."""
    if spec.endswith(".py") and os.path.isfile(spec):
        names = _names_in(Path(spec))
        return f"write {option} {spec}:{names[0] if names else 'NAME'}"
    module, dot, name = spec.rpartition(".")
    if dot and ":" not in spec and all(part.isidentifier() for part in spec.split(".")):
        files = (Path(folder, *spec.split(".")).with_suffix(".py") for folder in folders_of(spec))
        if file := next((file for file in files if file.is_file()), None):
            return f"write {option} {spec}:{(_names_in(file) or ['NAME'])[0]}"
        return f"write {option} {module}:{name}"
    return f"write e.g. {option} my.nets:ResNet or {option} nets.py:build"


def _names_in(path: Path) -> list[str]:
    """What a file defines at its top, modules first."""
    try:
        statements = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    classes = [node for node in statements if isinstance(node, ast.ClassDef)]
    modules = [c.name for c in classes if any("Module" in ast.unparse(base) for base in c.bases)]
    functions = [node.name for node in statements if isinstance(node, ast.FunctionDef)]
    return modules[-1:] + [name for name in functions if name[0] != "_"]


def files_of_spec(spec: str) -> Iterator[Path]:
    """The file or folder that a spec names, or the Python files of its target; none is run."""
    yield Path(spec)
    target, _, _ = spec.rpartition(":")
    if not target:
        return
    if is_path(target):
        yield Path(target)
        return
    folders: Sequence[str] = [*folders_of(""), *sys.path]
    with contextlib.suppress(ValueError, OSError, ImportError):  # no name of a module
        for part in target.split("."):
            found = importlib.machinery.PathFinder.find_spec(part, folders)
            if found is None:
                return
            if found.origin is not None:
                yield Path(found.origin)
            folders = found.submodule_search_locations or []


def call(function: object, arguments: Sequence[str], spec: str, option: str) -> object:
    """Call what `resolve` found with literal `key=value` arguments."""
    assert callable(function)
    keywords = parse_arguments(arguments)
    check_call(function, keywords, f"{option} {spec}")
    todo = f"check {option}-arg, or fix it there" if keywords else "fix it there"
    with running(f"{option} {spec}", todo), importable(spec.rpartition(":")[0]):
        return function(**keywords)


class running:  # noqa: N801 - like contextlib.redirect_stdout, which it is and more
    """Send prints to stderr, and turn what user code raises into a BncheckError.

    It is entered for every batch: as a generator it would take four times as long.
    """

    def __init__(self, subject: str, todo: str = "fix it there") -> None:
        self._subject = subject
        self._todo = todo

    def __enter__(self) -> None:
        self._stdout = sys.stdout
        sys.stdout = sys.stderr

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stdout = self._stdout
        if error is not None:
            _raise_as_ours(error, self._subject, self._todo)


def _raise_as_ours(error: BaseException, subject: str, todo: str) -> None:
    if isinstance(error, (BncheckError, KeyboardInterrupt, TerminatedError)):
        return
    if isinstance(error, SystemExit):
        raise BncheckError(
            f"called sys.exit({error.code!r}){_where(error)}",
            "guard scripts with `if __name__ == '__main__':`",
            subject,
        ) from error
    if isinstance(error, ImportError) and (known := explained(error)) is not None:
        raise known.about(subject) from error
    raise BncheckError(described(error), todo, subject) from error  # GeneratorExit, or its own


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """An export runs the model's forward, which may print and exit as it likes.

    What is printed goes to stderr at the end; a graph that torch prints when an export fails is
    nothing for users, who get one line.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            yield
    except SystemExit as error:
        raise BncheckError(
            f"the model called sys.exit({error.code!r})", "raise an exception instead"
        ) from None
    if sys.stderr is not None:
        sys.stderr.write(printed.getvalue())


def described(error: BaseException) -> str:
    """`ValueError: depth must be 6n+2 (nets.py:12)`."""
    try:
        said = error.msg if isinstance(error, SyntaxError) and error.filename else str(error)
        text = shortened(
            " ".join(said.split()), 300
        )  # that of a SyntaxError repeats the file and line
    except Exception:  # its own __str__ fails
        text = ""
    name = type(error).__name__
    return f"{name}: {text}{_where(error)}" if text else f"{name}{_where(error)}"


def _where(error: BaseException) -> str:
    """The innermost line of user code, or of a library where no user code is involved."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_PACKAGE, "<")) and frame.lineno
    ]
    own = [frame for frame in frames if not _is_library(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    if not frames:
        return ""
    frame = (own or frames)[-1]
    return f" ({Path(frame.filename).name}:{frame.lineno})"


def _is_library(filename: str) -> bool:
    return "site-packages" in filename or filename.startswith(str(Path(os.__file__).parent))


def _import(target: str) -> ModuleType:
    if not is_path(target):
        try:
            return importlib.import_module(target)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if not (target == missing or target.startswith(f"{missing}.")):
                raise  # the module is there, but something it imports is not
            raise BncheckError(
                f"there is no module {target!r}",
                "install it, go to the folder that holds it, or name a .py file",
            ) from None
    path = Path(target)
    if not os.path.isfile(path):  # unlike is_file, False for any name
        raise BncheckError(f"there is no file {target!r}", "check the path")
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and _same_file(loaded, path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BncheckError(f"{target!r} is not a Python file", "name a .py file or a module")
    module = importlib.util.module_from_spec(spec)
    previous = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and pickle look a module up by its name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        _put_back(name, previous)
        raise
    if previous is not None:  # a library of that name must stay what it was
        _put_back(name, previous)
    return module


def _relative(path: Path, name: str, option: str) -> BncheckError:
    """A file that imports from its package has to be named as a part of it."""
    folder = path.resolve().parent
    root = root_of(folder)
    root = folder.parent if root == folder else root
    module = ".".join((*folder.relative_to(root).parts, path.stem))
    here = Path.cwd()
    go = "" if root in (here, here / "src") else f"cd {root} and "
    return BncheckError(
        "imports from its package (from . import ...), so it has to be named as a part of it",
        f"{go}write {option} {module}:{name}",
    )


def _same_file(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve() == path.resolve()


def _put_back(name: str, previous: ModuleType | None) -> None:
    if previous is None:
        del sys.modules[name]
    else:
        sys.modules[name] = previous


def _no_attribute(subject: str, target: str, name: str, holder: object) -> BncheckError:
    near = nearest(name, [n for n in dir(holder) if n[0] != "_"])
    hint = f"did you mean {near}?" if near else "check the name after the colon"
    return BncheckError(f"{target} has no {name!r}", hint, subject)
