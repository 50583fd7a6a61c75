"""Permission to run code that comes with somebody else's file: a task's functions, a recipe's merge method.

Such files are shared like data, but their code runs with the user's rights. Installed packages are trusted: to install
one is the permission.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from mergesearch.errors import UserError
from mergesearch.say import Say, silent


@dataclass(frozen=True)
class _Permission:
    allowed: bool
    tell: Say
    told: set[str] = field(default_factory=set)


_PERMISSION = ContextVar[_Permission | None]("permission", default=None)


@contextmanager
def trust_code(allowed: bool = True, tell: Say | None = None) -> Iterator[None]:
    """Within the context, code that files bring along may run, if this or an outer context has ``allowed`` it.

    The context holds for this thread.

    Args:
        allowed: whether code may run.
        tell: gets a line for each piece of code, before it runs. None: that of the outer context, if any.
    """
    outer = _PERMISSION.get() or _Permission(False, silent)
    token = _PERMISSION.set(_Permission(allowed or outer.allowed, tell or outer.tell, outer.told))
    try:
        yield
    finally:
        _PERMISSION.reset(token)


def require_trust(code: str, owner: str) -> None:
    """To be called before code runs that a file brings along. ``code`` says what and where, ``owner`` for whom.

    Raises:
        UserError: the code is not allowed to run.
    """
    permission = _PERMISSION.get()
    if permission is None or not permission.allowed:
        raise UserError(
            f"{owner}: needs code, {code}, which runs with your rights; read it, then allow it with --trust, or with "
            "trust: true in the config (in Python: mergesearch.trust_code)"
        )
    tell_code(code)


def tell_code(code: str) -> None:
    """To be called before code runs that the user's own config names, which is the permission."""
    permission = _PERMISSION.get()
    if permission and code not in permission.told:
        permission.told.add(code)
        permission.tell(f"runs code: {code}")
