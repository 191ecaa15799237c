"""`segdiff models`: the models that ship."""

from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from segdiff.cli.options import Debug, Json, Quiet
from segdiff.cli.screen import Screen


def models(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the models that ship: a name goes wherever MODEL does. Each has a card that says how good it is."""
    from segdiff.model_files import AUGMENTATIONS
    from segdiff.released import HASH_SHOWN, released_models

    released = released_models()

    def render(console: Console) -> None:
        for model in released:
            trained = model.settings.ground_resolution
            facts = {
                "bands": "any number" if model.bands is None else str(model.bands),
                "classes": ", ".join(model.settings.classes[1:]) if len(model.settings.classes) > 2 else "",
                "resolution": " to ".join(f"{side:g}" for side in sorted(set(trained))) + " m" if trained else "",
                "prediction": f"{AUGMENTATIONS[model.settings.test_time_augmentation]}; --tta none: without"
                if model.settings.test_time_augmentation != "none"
                else "",
                "in short": model.evidence,
                "file": f"{model.file}, {model.size / 10**6:.1f} MB, sha256 {model.sha256[:HASH_SHOWN]}",
                "card": str(model.card),
            }
            console.print(Text.assemble((model.name, "bold"), ": ", model.summary))
            for name, fact in facts.items():
                if fact:
                    console.print(Text.assemble((f"  {name:<12}", "dim"), fact))
            console.print()
        console.print(f"segdiff predict {released[0].name} BEFORE AFTER --out OUT", markup=False)

    listed = [
        {
            "name": model.name,
            "summary": model.summary,
            "in_short": model.evidence,
            "file": model.file,
            "card": model.card,
            "bytes": model.size,
            "sha256": model.sha256,
            "bands": model.bands,
            **asdict(model.settings),
        }
        for model in released
    ]
    Screen(as_json, quiet).result({"models": listed}, render)
