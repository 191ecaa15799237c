"""Options and arguments of commands as types, with their ranges and their help."""

from typing import Annotated, Literal

import typer


def _noted(context: typer.Context, option: typer.CallbackParam, value: bool) -> bool:
    """Notes the option in the ``obj`` that the application was called with: whoever maps errors sees no parameters."""
    if context.obj is not None:
        context.obj[option.name] = value
    return value


Json = Annotated[
    bool, typer.Option("--json", callback=_noted, help="Print JSON, and nothing else, on standard output.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only, no progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and TensorFlow's log.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the predictions of another job in OUT.")]
AnyModel = Annotated[
    str, typer.Argument(metavar="MODEL", help="Run folder, .keras file, exported folder or shipped name.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0, max=1, help="Probability from which a pixel is change, above 0, below 1; default: the model's."
    ),
]
Tile = Annotated[int | None, typer.Option(min=1, help="Side of a tile in pixels; default: the model's.")]
Overlap = Annotated[int | None, typer.Option(min=0, help="Pixels that tiles share; default: the model's.")]
Resolution = Annotated[
    float | None,
    typer.Option(
        metavar="M", help="Metres per pixel of images that do not say theirs; they are brought to the model's."
    ),
]
Ensemble = Annotated[
    list[str] | None, typer.Option(metavar="MODEL", help="Another model whose probabilities are averaged in.")
]
TestTimeAugmentation = Annotated[
    Literal["d4", "multiscale", "none"] | None,
    typer.Option(
        metavar="NAME",
        help="d4: the mean over the eight turns and mirror images of every tile, eight times the work; multiscale: "
        "over four of them, three at another scale, five times the work; none; default: the model's.",
    ),
]
Runtime = Annotated[
    Literal["auto", "tensorflow", "openvino"],
    typer.Option(metavar="NAME", help="auto (OpenVINO on processors, TensorFlow on GPUs), tensorflow or openvino."),
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option(
        metavar="NAME",
        help="auto (bfloat16 where the processor multiplies it), float32, bfloat16, or int8, of models exported so.",
    ),
]
PostProcessed = Annotated[
    str | None,
    typer.Option(
        "--post-processing",
        metavar="STEPS",
        help="none, or of closing=RADIUS, fill_holes=AREA, vote and minimum_area=AREA some with commas between, no "
        "spaces; default: the model's.",
    ),
]
Ignore = Annotated[int | None, typer.Option(min=1, max=255, help="Mask value of pixels without truth.")]
