"""`segdiff pack`: a data set in TFRecord shards."""

from pathlib import Path
from typing import Annotated

import typer

from segdiff.cli.arguments import require_there
from segdiff.cli.commands.check import checked_data
from segdiff.cli.options import Debug, Ignore, Json, Quiet
from segdiff.cli.screen import Screen
from segdiff.cli.silence import import_tensorflow


def pack(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Folder or CSV file of a data set.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the shards; give it wherever DATA goes.")],
    shard_size: Annotated[int, typer.Option(metavar="MB", min=1, help="About how large a shard is.")] = 256,
    ignore: Ignore = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the packed set in OUT.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pack a data set into TFRecord shards, its files as they are; it is checked first."""
    from data_pipelines.packing import pack as pack_data
    from data_pipelines.packing import require_free
    from segdiff.config import ConfigError

    screen = Screen(as_json, quiet)
    require_there(data)
    try:
        require_free(out, overwrite=overwrite)
        report = checked_data(screen, data, ignore)
        import_tensorflow(debug)
        with screen.progress("packing") as update:
            index = pack_data(
                report, out, shard_bytes=shard_size * 10**6, overwrite=overwrite, on_progress=update
            )  # fmt: skip
    except FileExistsError as error:
        raise ConfigError(str(error)) from error
    size, shards = sum(index.shards.values()), len(index.shards)
    screen.result(
        {"out": out, "pairs": len(index.records), "shards": shards, "bytes": size},
        lambda console: console.print(
            f"{len(index.records)} pairs in {shards} shard{'s' if shards != 1 else ''}, {size / 10**6:.1f} MB: {out}",
            markup=False,
        ),
    )
