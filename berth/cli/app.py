"""The command tree, and the one place where errors become a message and an exit status."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from berth.cli import fleet, here, models, pools
from berth.cli.doctor import doctor
from berth.cli.options import group
from berth.cli.session import NotLoggedIn

EXIT_ERROR = 1
EXIT_TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        print(f"berth {importlib.metadata.version('berth')}")
        raise typer.Exit


def make_app() -> typer.Typer:
    """The whole tree of commands."""
    app = group(
        "Berth: multi-tenant model serving. Start with `berth up`, then `berth login`.\n\n"
        "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 75 try again later."
    )

    @app.callback()
    def root(
        _: Annotated[
            bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
    ) -> None:
        pass

    app.command("up")(here.up)
    app.command("demo")(here.demo)
    app.command("login")(here.login)
    app.command("doctor")(doctor)
    app.command("status")(fleet.show_status)
    app.command("events")(fleet.show_events)
    app.command("infer")(models.infer)
    app.add_typer(models.model, name="model")
    app.add_typer(models.version, name="version")
    app.add_typer(models.label, name="label")
    app.add_typer(fleet.job, name="job")
    app.add_typer(pools.pool, name="pool")
    app.add_typer(fleet.tenant, name="tenant")
    app.add_typer(fleet.key, name="key")
    return app


def run() -> None:
    """Run the command of `sys.argv` and end the process with its status."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: list[str]) -> int:
    """Run one command; the result is its exit status. Errors are told on standard error."""
    try:
        make_app()(arguments, prog_name="berth")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_ERROR
    except NotLoggedIn as error:
        return _tell(str(error), EXIT_ERROR)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `berth events | head`: whoever read us has enough. What is left in the buffer must not be tried again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # A named boundary. Imported here: most commands never need the classes, and `--help` must be quick.
        from berth.errors import BerthError, Retryable

        if not isinstance(error, BerthError | OSError):
            raise
        return _tell(explain(error), EXIT_TRY_AGAIN if isinstance(error, Retryable) else EXIT_ERROR)
    return 0


def explain(error: BaseException) -> str:
    """What a person is told of an error: its title and detail, and what else the server said, a line each."""
    from berth.errors import BerthError

    if not isinstance(error, BerthError):
        return str(error)
    more = [f"  {name}: {value}" for name, value in error.fields.items()]
    return "\n".join((f"{error.status.title}: {error.detail}", *more))


def _tell(text: str, status: int) -> int:
    print(f"berth: {text}", file=sys.stderr)
    return status
