"""What is named by a URL: objects of S3 and Google Cloud, files of the Hugging Face Hub, https.

fsspec knows how to reach them, with the credentials of its libraries. Only what the user names is
contacted: a file that mentions other URLs is not followed, a shard lies below the named folder, and
of redirects aiohttp follows those to http and https alone, of which the unencrypted are refused.
"""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path, PosixPath
from typing import Any, Final, TypeVar

from bncheck.core.errors import BncheckError
from bncheck.core.extras import explained, need
from bncheck.core.words import nearest, shortened

T = TypeVar("T")

_URL: Final = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
#: Pages on which a file is shown, and where the file itself is; and the page of a repository.
_PAGE: Final = re.compile(
    r"https://(huggingface\.co|github\.com)/([^/]+/[^/]+)/blob/([^?#]+)(?:[?#].*)?"
)
_REPOSITORY: Final = re.compile(
    r"https://huggingface\.co/([^/?#]+/[^/?#]+)/?(?:tree/([^/?#]+)/?)?(?:[?#].*)?"
)
_RAW: Final = {"huggingface.co": "resolve", "github.com": "raw"}
#: What is reached, and the library beside fsspec that does it.
_LIBRARIES: Final = {
    "http": "aiohttp", "https": "aiohttp", "hf": "huggingface_hub", "s3": "s3fs", "s3a": "s3fs",
    "gs": "gcsfs", "gcs": "gcsfs", "memory": "fsspec",
}  # fmt: skip
#: Seconds before the second, third and fourth attempt.
_PAUSES: Final = (0.5, 1.0, 2.0)
#: Seconds to wait for a web server to be reached, and for its next bytes unless TIMEOUT says more.
_CONNECT, _READ = 10.0, 15.0
TIMEOUT: Final = "BNCHECK_REMOTE_TIMEOUT"
#: A request takes as many waits at most, and a second for so many bytes.
_WAITS, _SLOWEST = 4, 1 << 15
_LONGEST: Final = 86_400
#: Names that are looked at for one that was meant.
_MOST_BESIDE: Final = 2000
_PASSING: Final = (408, 425, 429)  # statuses of 400 and above that another attempt may change
_CREDENTIALS: Final = {
    "hf": "log in with `hf auth login`, or set HF_TOKEN",
    "s3": "check the AWS credentials, as for `aws s3 ls`",
    "gs": "check the credentials, as for `gcloud auth application-default login`",
}


class Remote(PosixPath):
    """A URL where a path stands: names, suffixes and what lies below are those of its path."""

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    @property
    def scheme(self) -> str:
        """`s3` of s3://bucket/key."""
        return str(self).partition(":")[0].lower()

    def is_file(self) -> bool:
        """Whether it is an object or a file."""
        return self._type() == "file"

    def is_dir(self) -> bool:
        """Whether something lies below it; web servers do not say."""
        return self.scheme not in ("http", "https") and self._type() == "directory"

    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self._type())

    def iterdir(self) -> Iterator[Remote]:  # type: ignore[override]
        """What lies directly below it."""
        listed = attempt(self, lambda: filesystem(self).ls(str(self), detail=False))
        yield from (self / str(name).rstrip("/").rpartition("/")[2] for name in listed)

    def matching(self) -> list[Remote]:
        """What it names: all that matches where it is a pattern of names that can be listed.

        A `?` of https:// begins a query. Raises BncheckError.
        """
        text = str(self)
        if self.scheme in ("http", "https") or not glob.has_magic(text):
            return [self]
        found = attempt(self, lambda: filesystem(self).glob(text))
        if not found:
            raise BncheckError("matches no file", "check the pattern", text)
        return [Remote(f"{self.scheme}://{str(name).lstrip('/')}") for name in sorted(found)]

    def _type(self) -> str:
        try:
            return str(info_of(self)["type"])
        except BncheckError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return ""
            raise


class StandardInput(PosixPath):
    """`-`: what is piped into the command."""


def place_of(word: str | Path) -> Path:
    """What the user names: a path, a URL, or - for standard input. Raises BncheckError."""
    if isinstance(word, Path):
        return word
    if not word:  # which a path would take for the working directory
        raise BncheckError("a file name is empty", "give the path of a checkpoint")
    if word == "-":
        return StandardInput("-")
    found = _URL.match(word)
    if found is None:
        return Path(word)
    if found[1].lower() not in _LIBRARIES:
        hint = "give a path" if found[1].lower() == "file" else "or download it"
        raise BncheckError(
            f"is a URL that bncheck does not read ({found[1]}://)",
            f"https://, hf://, s3:// and gs:// are read; {hint}",
            word,
        )
    if not found[2].strip("/"):
        raise BncheckError("names nothing", "write e.g. https://host/net.pt", word)
    if found[1].lower() == "hf" and not re.match(r"/*[^/]+/+[^/]", found[2]):
        raise BncheckError(
            "names no repository", "write hf://ORG/NAME, and behind it @REVISION or /FILE", word
        )
    return Remote(_file_behind(word))


def _file_behind(url: str) -> str:
    """The file or the repository that a page in the browser shows."""
    if page := _PAGE.fullmatch(url):
        return f"https://{page[1]}/{page[2]}/{_RAW[page[1]]}/{page[3]}"
    if page := _REPOSITORY.fullmatch(url):
        return f"hf://{page[1]}{f'@{page[2]}' if page[2] else ''}"
    return url


def what_is_meant(path: Path) -> str:
    """The next step for a path that does not exist: one that is alike, or a URL."""
    if alike := _alike(path):
        return f"did you mean {shortened(str(alike))}?"
    first, *rest = path.parts or ("",)
    if rest and re.fullmatch(r"[\w-]+(\.[\w-]+)*\.(com|co|org|net|io|ai|edu|dev)", first):
        return f"check the path, or write https://{path}"
    if len(rest) == 1 and not path.suffix and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)):
        return f"check the path; on the Hugging Face Hub it would be hf://{path}"
    return "check the path"


def _alike(path: Path) -> Path | None:
    """What is beside it under nearly the same name."""
    try:
        beside = [entry.name for entry in islice(os.scandir(path.parent), _MOST_BESIDE)]
    except (OSError, ValueError):
        return None
    found = nearest(path.name, sorted(beside), 0.8)
    return path.parent / found if found else None


def is_url(word: str) -> bool:
    """Whether it is written like a URL."""
    return _URL.match(word) is not None


def is_local(path: Path) -> bool:
    """Whether it is in the file system."""
    return not isinstance(path, (Remote, StandardInput))


def filesystem(path: Remote) -> Any:
    """fsspec's file system of a URL. Raises BncheckError where a library is missing."""
    library = _LIBRARIES[path.scheme]
    need(*dict.fromkeys(("fsspec", library)), purpose=f"{path.scheme}://")
    return _filesystem(path.scheme)


@cache
def _filesystem(scheme: str) -> Any:
    import fsspec

    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        options["client_kwargs"] = {"timeout": timeout_of(None)}
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=True, **options)
    except ImportError as error:
        raise explained(error) or error from None


def seconds() -> float:
    """How long to wait for the next bytes. Raises BncheckError for what is no such number."""
    said = os.environ.get(TIMEOUT, "")
    try:
        waited = float(said or _READ)
    except ValueError:
        waited = 0.0
    if not 0 < waited <= _LONGEST:
        raise BncheckError(f"{TIMEOUT}={said[:20]!r} is not a number of seconds", "write e.g. 60")
    return waited


def timeout_of(size: int | None) -> Any:
    """aiohttp's limits of a request for so many bytes; None: for a whole file of any size."""
    import aiohttp

    waited = seconds()
    total = None if size is None else _WAITS * waited + size / _SLOWEST
    return aiohttp.ClientTimeout(total=total, sock_connect=_CONNECT, sock_read=waited)


@cache
def info_of(path: Remote) -> dict[str, Any]:
    """Size and type, as fsspec gives them."""
    found: dict[str, Any] = attempt(path, lambda: filesystem(path).info(str(path)))
    if path.scheme == "https" and str(found.get("url", "")).startswith("http:"):
        raise BncheckError("redirects to an unencrypted address", "name that address")
    return found


def attempt(path: Remote, action: Callable[[], T]) -> T:
    """What the action gives; tried again, after a while, where another attempt may succeed."""
    late = 0
    for pause in (*_PAUSES, None):
        try:
            return action()
        except BncheckError:
            raise
        except Exception as caught:  # of as many kinds as there are libraries
            error = _root(caught)
            late += isinstance(error, TimeoutError)
            if pause is None or late > 1 or not _is_passing(error):
                raise _refused(path, error) from error
            time.sleep(pause)
    raise AssertionError


def _root(error: Exception) -> Exception:
    """What fsspec calls a missing file may be a server that was not reached."""
    cause = error.__cause__
    missing = isinstance(error, FileNotFoundError)
    return cause if missing and isinstance(cause, Exception) else error


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    found = getattr(error, "status", None) or getattr(response, "status_code", None)
    return found if isinstance(found, int) else None


def _is_no_bucket(error: Exception) -> bool:
    """What botocore says of one that is not there."""
    response = getattr(error, "response", None)
    said = response.get("Error") if isinstance(response, dict) else None
    return isinstance(said, dict) and said.get("Code") == "NoSuchBucket"


def _is_passing(error: Exception) -> bool:
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _PASSING
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, ValueError)
    return isinstance(error, (OSError, TimeoutError)) and not isinstance(error, lasting)


def _refused(path: Remote, error: Exception) -> BncheckError:
    status = _status(error)
    about = str(path)
    if isinstance(error, FileNotFoundError) or status in (404, 410) or _is_no_bucket(error):
        private = "; a private one needs `hf auth login` or HF_TOKEN" if path.scheme == "hf" else ""
        return BncheckError("does not exist there", f"check the URL{private}", about)
    if isinstance(error, PermissionError) or status in (401, 403):
        hint = _CREDENTIALS.get(path.scheme[:2], "check whether it needs a password")
        return BncheckError("may not be read", hint, about)
    if isinstance(error, TimeoutError) and path.scheme in ("http", "https"):
        hint = f"try again, or set {TIMEOUT} to more seconds than {seconds():g}"
        return BncheckError("is on a server that is too slow", hint, about)
    text = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 160)
    return BncheckError(f"cannot be reached ({text})", "check the URL and the network", about)
