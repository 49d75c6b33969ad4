"""The command line: `grpo-train recipe.yaml` trains, `grpo` holds the rest.

Exit status: 0 done, 2 the recipe or the input is wrong (one line says where and what to do), 1 anything else.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Before torch: threads that spin while they wait take the cores from reward workers and other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from grpo import __version__
from grpo.types import TrainingFailure, UserError


def train(arguments: Sequence[str] | None = None) -> int:
    """`grpo-train`: run a recipe, or go on with it where it stopped."""
    parser = argparse.ArgumentParser(prog="grpo-train", description="Train a policy by a recipe; run again to go on.")
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. stages.1.lr=1e-6")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it would take")
    parser.add_argument("--fresh", action="store_true", help="start over; an earlier run is kept beside the new one")
    parser.add_argument("--version", action="version", version=__version__)
    return _guarded(_train, parser.parse_args(arguments))


def main(arguments: Sequence[str] | None = None) -> int:
    """`grpo`: the commands beside training."""
    parser = argparse.ArgumentParser(prog="grpo", description="Tools around training with grpo-train.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    importer = commands.add_parser("import-gguf", help="turn a GGUF file into a model folder")
    importer.add_argument("file", type=Path, help="the GGUF file")
    importer.add_argument("out", type=Path, help="the folder to make")
    importer.set_defaults(run=_import_gguf)
    options = parser.parse_args(arguments)
    return _guarded(options.run, options)


def _guarded(command: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    try:
        command(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 1
    return 0


def _train(options: argparse.Namespace) -> None:
    from grpo.recipe_file import load_recipe  # the heavy imports come after the arguments are known to be right

    recipe = load_recipe(options.recipe, options.set)
    if options.dry_run:
        from grpo.estimate import describe

        print(describe(recipe))
        return
    from transformers.utils.logging import disable_progress_bar

    from grpo.pipeline import run_recipe

    disable_progress_bar()  # the display says what is going on
    run_recipe(recipe, options.fresh)


def _import_gguf(options: argparse.Namespace) -> None:
    from grpo.gguf import import_gguf

    import_gguf(options.file, options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    sys.exit(train())
