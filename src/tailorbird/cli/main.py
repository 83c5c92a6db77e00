"""``tailorbird``: the commands put together, and what becomes of errors."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from tailorbird import __version__
from tailorbird.cli import (
    bench,
    compare,
    compress,
    data,
    demo,
    evaluate,
    export,
    inspect,
    methods,
    pareto,
    profile,
    recommend,
    run,
    serve,
    simulate,
    tailor,
    train,
    verify,
)
from tailorbird.cli.session import Session, say, session
from tailorbird.errors import TailorbirdError, UsageError

INTERRUPTED = 130
EXIT_CODES = (
    "Exit codes: 0 done; 1 any other error; 2 wrong usage; 3 the model; 4 the data; 5 the budget can't be kept; "
    "6 the artifact is damaged; 7 a library is missing; 8 no space left; 130 interrupted."
)

app = typer.Typer(
    name="tailorbird",
    help="Fit one trained model to every device: compress it to a budget, verify it, run it, show what it cost.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Interrupted(BaseException):
    """Ctrl-C, as it leaves a command: typer would end the process before anything helpful is said."""


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(command)
    def guarded(*args: Any, **options: Any) -> None:
        try:
            command(*args, **options)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return guarded


for _module in (
    compress,
    pareto,
    compare,
    evaluate,
    run,
    serve,
    inspect,
    verify,
    export,
    bench,
    profile,
    methods,
    demo,
    train,
    recommend,
    simulate,
):
    app.command(_module.__name__.rpartition(".")[2])(_guarded(_module.command))
data.app.command("list")(_guarded(data.listed))
data.app.command("get")(_guarded(data.get))
app.add_typer(data.app, name="data")
tailor.app.command("train")(_guarded(tailor.trained))
tailor.app.command("make")(_guarded(tailor.made))
tailor.app.command("apply")(_guarded(tailor.applied))
tailor.app.command("export")(_guarded(tailor.exported))
app.add_typer(tailor.app, name="tailor")


def _version(value: bool) -> None:
    if value:
        print(f"tailorbird {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    session(context).debug = debug


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    sys.exit(call(sys.argv[1:] if args is None else args))


def call(args: Sequence[str]) -> int:
    """Run the command line; returns the exit code. Errors nobody expected come through with their traceback."""
    this = Session(list(args), json="--json" in args)
    try:
        with contextlib.redirect_stdout(sys.stderr) if this.json else contextlib.nullcontext():
            return _dispatch(this)
    except TailorbirdError as error:
        if this.debug:
            raise
        return this.fail(error)
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        say(f"interrupted: {this.interrupted()}")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough of it.
        with contextlib.suppress(OSError):
            sys.stdout.close()
        return 1


def _dispatch(this: Session) -> int:
    command: Any = typer.main.get_command(app)
    try:
        return int(command.main(this.args, prog_name="tailorbird", standalone_mode=False, obj=this) or 0)
    except _CLICK_ERROR as error:
        context = error.ctx
        asked = context.command_path if context else "tailorbird"
        if not error.format_message():  # no arguments at all: the help was shown
            return UsageError.exit_code
        raise UsageError(error.format_message(), hint=f"see `{asked} --help`") from None


# Typer took click into itself at some version; its errors are found through the one class both export.
_CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "UsageError")
