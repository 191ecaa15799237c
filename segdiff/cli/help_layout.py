"""The help of the commands, in 80 columns."""

from typing import Any

from typer.core import TyperGroup


class Commands(TyperGroup):
    """Commands with a help that fits 80 columns: a flag has no type, and a number is N."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of `segdiff` itself."""
        return [_shortened(parameter) for parameter in super().get_params(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name."""
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            # the lines of a paragraph are the source's: what is shown has its own
            command.help = "\n\n".join(" ".join(part.split()) for part in (command.help or "").split("\n\n"))
            for parameter in command.get_params(ctx):
                _shortened(parameter)
        return command


def _shortened(parameter: Any) -> Any:
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None and parameter.type_descriptor.annotation in (int, float):
        parameter.metavar = "N"
    return parameter
