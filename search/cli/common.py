"""What commands share: how they end on errors, how they print, and the options that many have."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mergesearch.errors import UserError, in_words
from mergesearch.foreign import other_code
from mergesearch.text import SCREEN, as_line, print_anything, shown
from mergesearch.trust import trust_code

if TYPE_CHECKING:
    from mergesearch.search.config import Config

CommandFunction = Callable[..., None]
verbose_option = click.option("--verbose", "-v", is_flag=True, help="Print a line for each trial.")
quiet_option = click.option("--quiet", "-q", is_flag=True, help="Print the verdict's sentence and its recipe alone.")
values_argument = click.argument("values", nargs=-1, metavar="[KEY=VALUE]...")
trust_option = click.option("--trust", is_flag=True, help="Run code that tasks and recipes bring along.")
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Folder of runs.",
)


def command(example: str, name: str | None = None) -> Callable[[CommandFunction], click.Command]:
    """Makes a function a command, with an example under its help. See ``_user_errors`` for how it ends."""
    settings = {"max_content_width": 100}

    def decorate(function: CommandFunction) -> click.Command:
        return click.command(name, epilog=f"Example: {example}", context_settings=settings)(_user_errors(function))

    return decorate


def _user_errors(function: CommandFunction) -> CommandFunction:
    """Ends a command with exit code 2 and without a traceback on UserError, and on errors of the file system.

    Each problem is one line, whatever is in it.
    """

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        print_anything()
        try:
            with other_code(f"mergesearch {function.__name__}"):
                function(*args, **kwargs)
        except UserError as error:
            _end(*error.problems)
        except BrokenPipeError:
            raise  # click ends without a word where nobody reads
        except OSError as error:
            _end(in_words(error) if error.filename is None else f"{error.filename}: {error.strerror}")

    return wrapped


def echo(text: str, err: bool = False) -> None:
    """Prints text that may quote other people."""
    click.echo(shown(text, 5 * SCREEN), err=err)


tell = partial(echo, err=True)


def print_text(text: str) -> None:
    """Prints text for other programs, whose parts are fit to be printed."""
    click.echo(text, nl=False)


@contextmanager
def opened_config(file: Path, overrides: dict[str, Any]) -> "Iterator[Config]":
    """The config. Within the context, its code is told before it runs, and runs where the config trusts it."""
    from mergesearch.search.problem.problem import read_config

    with trust_code(False, tell):
        config = read_config(file, **overrides)
        with trust_code(config.trust):
            yield config


def _end(*problems: str) -> NoReturn:
    for problem in problems:
        echo(f"error: {as_line(problem)}", err=True)
    sys.exit(2)
