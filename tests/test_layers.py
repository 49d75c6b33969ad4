"""Imports point down: a floor knows only itself and the floors below it."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]

FLOORS = [
    {
        "grpo", "grpo.types", "grpo.settings", "grpo.engine_settings", "grpo.correction_settings",
        "grpo.expert_settings", "grpo.mtp_settings", "grpo.teacher_settings", "grpo.preference_settings", "grpo.recipe",
        "grpo.recipe_file",
        "grpo.stage_settings", "grpo.rejection_settings", "grpo.chain", "grpo.kernels.*",
        "grpo.model_settings", "grpo.problem_settings", "grpo.reward_settings", "grpo.advantage_settings",
        "grpo.loss_settings", "grpo.training_settings", "grpo.sft_stage", "grpo.grpo_stage", "grpo.reward_model_stage",
        "grpo.evaluate_stage", "grpo.rejection_stage",
        "grpo.curriculum_settings", "grpo.mixture_settings",
    },
    {
        "grpo.advantages", "grpo.losses", "grpo.losses.*", "grpo.batch", "grpo.prefix_tree", "grpo.split",
        "grpo.tally",
        "grpo.files", "grpo.lines", "grpo.plugins", "grpo.sources", "grpo.templates", "grpo.data", "grpo.tasks.*",
        "grpo.families", "grpo.evaluation", "grpo.allocator", "grpo.processor", "grpo.fused", "grpo.token_lengths",
        "grpo.experts", "grpo.experts.routing",
        "grpo.calibration", "grpo.loading", "grpo.reward_reading", "grpo.scalar_model", "grpo.summary",
        "grpo.where", "grpo.watch", "grpo.masked", "grpo.processes", "grpo.doctor", "grpo.doctor.*",
        "grpo.metrics", "grpo.display", "grpo.panel", "grpo.drawing", "grpo.rewards", "grpo.rewards.*",
        "grpo.rollout.engine", "grpo.rollout", "grpo.reading", "grpo.decontamination", "grpo.duplicates",
        "grpo.feed",
    },
    {
        "grpo.rollout.*", "grpo.policy", "grpo.mtp", "grpo.mtp_files", "grpo.mtp_loss", "grpo.checkpoint_names",
        "grpo.pretrained", "grpo.scratch", "grpo.gguf",
        "grpo.checkpoint", "grpo.journal", "grpo.optimizer", "grpo.activations", "grpo.forward", "grpo.experience",
        "grpo.fp8", "grpo.experts.*", "grpo.run", "grpo.run_folder", "grpo.task", "grpo.rollouts", "grpo.held_out",
        "grpo.convert", "grpo.convert.*", "grpo.inputs", "grpo.sieve", "grpo.candidates",
        "grpo.recorded", "grpo.evaluation_table",
    },
    {
        "grpo.learner", "grpo.experts.load", "grpo.correction", "grpo.objective", "grpo.kl_reward", "grpo.training",
        "grpo.distillation", "grpo.preference",
    },
    {"grpo.stages", "grpo.stages.*"},
    {
        "grpo.preflight", "grpo.reward_test", "grpo.pipeline", "grpo.engine_estimate", "grpo.estimate", "grpo.cli",
        "grpo.plan", "grpo.leaks",
        "grpo.benchmarks", "grpo.eval_command", "grpo.report", "grpo.report.*",
    },
]  # fmt: skip


def modules() -> dict[str, Path]:
    files = [f for top in ("grpo", "rewards", "rollout", "kernels") for f in (ROOT / top).rglob("*.py")]
    found = {}
    for file in files:
        parts = file.relative_to(ROOT).with_suffix("").parts
        dotted = ".".join(part for part in parts if part != "__init__")
        found[dotted if dotted.split(".")[0] == "grpo" else f"grpo.{dotted}"] = file
    return found


def floor_of(module: str) -> int | None:
    for number, names in enumerate(FLOORS):
        if module in names:
            return number
    for number, names in enumerate(FLOORS):
        if any(name.endswith(".*") and module.startswith(name[:-1]) for name in names):
            return number
    return None


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_a_floor() -> None:
    assert [module for module in modules() if floor_of(module) is None] == []


def test_imports_point_down() -> None:
    known = modules()
    upward = [
        f"{module} imports {used}"
        for module, file in known.items()
        for used in imports(file) & known.keys()
        if (floor_of(used) or 0) > (floor_of(module) or 0)
    ]
    assert upward == []
