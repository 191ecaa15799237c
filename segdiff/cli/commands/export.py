"""`segdiff export`: a model in another format."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from segdiff.cli.commands.check import checked_data
from segdiff.cli.options import Debug, Ignore, Json, Quiet
from segdiff.cli.screen import Screen
from segdiff.cli.silence import import_tensorflow, silenced


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Run folder, .keras file or shipped name.")],
    kind: Annotated[
        Literal["savedmodel", "onnx", "openvino", "tflite"],
        typer.Option(
            "--format",
            metavar="NAME",
            help="savedmodel: TensorFlow; onnx: ONNX Runtime and many others; openvino: processors, the fastest; "
            "tflite: phones and small devices, one tile of the model's size at a time.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="OUT", help="New folder; predict and evaluate take it as MODEL.")],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DATA", help="Labelled data set to compare on, and to calibrate int8; default: drawn."),
    ] = None,
    precision: Annotated[
        Literal["float32", "float16", "int8"] | None,
        typer.Option(
            metavar="NAME",
            help="float16 (of tflite the default) halves the file, int8 (by --data) is the fastest: openvino and "
            "tflite alone; else float32.",
        ),
    ] = None,
    ignore: Ignore = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the exported model in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a model in another format. It is loaded again and compared with the original before it counts as written.

    The masks have to agree on 99.9 % of the pixels, in int8 on 99 %, and int8 may cost 0.005 of F1 on DATA; else
    nothing is left behind and the exit status is 4. OUT/manifest.json tells other programs what goes in and comes out.
    """
    from segdiff.config import ConfigError, load_config
    from segdiff.inference.formats import choose_export, require_exportable
    from segdiff.model_files import MANIFEST

    screen = Screen(as_json, quiet)
    chosen = choose_export(kind, precision)
    if chosen == "int8" and data is None:
        raise ConfigError("--precision int8: is calibrated on pairs like those to come; name a data set with --data")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file; name a new folder with --out")
    if out.is_dir() and any(out.iterdir()):
        if not (out / MANIFEST).is_file():
            raise ConfigError(f"{out}: is not empty and holds no exported model; name another folder with --out")
        if not overwrite:
            raise ConfigError(f"{out}: holds an exported model; name another folder with --out, or --overwrite")
    require_exportable(model)
    if ignore is None and (Path(model) / "config.yaml").is_file():
        ignore = load_config(Path(model) / "config.yaml").data.ignore
    report = None if data is None else checked_data(screen, data, ignore)
    import_tensorflow(debug)
    from segdiff.inference.export_model import export_model

    @contextlib.contextmanager
    def silence() -> Iterator[None]:
        # NNCF shows its progress on standard output
        with silenced(debug), contextlib.nullcontext() if debug else contextlib.redirect_stdout(io.StringIO()):
            yield

    with screen.progress("comparing") as update:
        manifest = export_model(
            model, out, kind, chosen, data=report, overwrite=overwrite, silence=silence, say=screen.say,
            on_progress=update,
        )  # fmt: skip
    checked = manifest.checked or {}
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())

    def render(console: Console) -> None:
        console.print(f"{kind} in {chosen}, {size / 10**6:.1f} MB: {out}", markup=False, style="bold")
        console.print(
            f"on {checked['on']} the masks agree on {checked['equal_masks']:.4%} of the pixels, probabilities differ "
            f"by {checked['largest_difference']:.2g} at most",
            markup=False,
        )
        if checked["f1"] is not None:
            console.print(f"F1 there {checked['f1']:.4f}, of the model itself {checked['f1_model']:.4f}", markup=False)

    screen.result(
        {"out": out, "format": kind, "precision": chosen, "bytes": size, "tile": manifest.tile, **checked}, render
    )
