"""Which way weights take to servers: chosen by device, forced by a recipe, refused in one sentence."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from grpo.chain import chain
from grpo.cli import main
from grpo.engine_settings import EngineSettings, ServerSettings
from grpo.families import EngineOptions
from grpo.preflight import check_ahead
from grpo.recipe_file import load_recipe
from grpo.rollout.serve import Address, command
from grpo.rollout.transfer import Place, Way, chosen_way, planned_way, with_way
from grpo.rollout.vllm_options import gpus_of, on_cpu, visible_gpus
from grpo.types import UserError


def servers(**given: object) -> ServerSettings:
    return ServerSettings.model_validate({"urls": ["http://10.0.0.2:8000"]} | given)


def place(*gpus: str, way: Way = "nccl") -> Place:
    return Place("http://10.0.0.2:8000", gpus, way)


# --- servers that the run starts --------------------------------------------------------------------------------------


def test_servers_of_the_run_take_a_file_on_a_cpu_and_nccl_on_gpus() -> None:
    ours = ServerSettings(count=2)
    assert (planned_way(ours, cpu=True), planned_way(ours, cpu=False)) == ("file", "nccl")
    assert planned_way(ServerSettings(count=2, folder="/mnt"), cpu=False) == "file"  # who names a folder wants files
    assert [planned_way(ServerSettings(count=1, transfer=way), cpu=False) for way in ("file", "ipc", "nccl")] == [
        "file", "ipc", "nccl",
    ]  # fmt: skip


@pytest.mark.parametrize("way", ["ipc", "nccl"])
def test_a_way_of_gpus_is_refused_on_a_cpu(way: Way) -> None:
    expected = (
        f"rollout.servers.transfer: {way} needs GPUs, got none on this machine: change that, or set transfer: auto"
    )
    with pytest.raises(UserError, match=f"^{re.escape(expected)}$"):
        planned_way(ServerSettings(count=1, transfer=way), cpu=True)


@pytest.mark.skipif(not on_cpu(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("given", [{"count": 1}, {"urls": ["http://10.0.0.2:8000"]}])
def test_before_any_stage_runs(write_recipe: Callable[..., Path], given: dict[str, object]) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    stages = [{"kind": "evaluate", "engine": "vllm-server", "servers": given | {"transfer": "nccl"}}]
    recipe = load_recipe(write_recipe(stages=stages), [])
    with pytest.raises(UserError, match=r"servers\.transfer: nccl needs GPUs"):
        check_ahead(recipe, chain(recipe), Path(recipe.output))


def test_a_server_learns_at_its_start_what_it_is_for() -> None:
    options = EngineOptions({"model": "m", "max_num_seqs": 8})
    flags = command(with_way(options, "nccl"), Address("127.0.0.1", 1))
    assert flags[flags.index("--weight-transfer-config") + 1] == '{"backend": "nccl"}'
    assert "--weight-transfer-config" not in command(with_way(options, "file"), Address("127.0.0.1", 1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of vLLM's own imports
def test_vllm_knows_the_flag() -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    for way in ("ipc", "nccl"):
        flags = command(with_way(EngineOptions({"model": "m", "max_num_seqs": 8}), way), Address("127.0.0.1", 1))
        found = parser.parse_args(flags[flags.index("--model") :])
        assert EngineArgs.from_cli_args(found).weight_transfer_config.backend == way


# --- where they are placed --------------------------------------------------------------------------------------------


def test_servers_get_gpus_behind_the_learners_or_share_it() -> None:
    assert gpus_of(2, 1, [], shared=False) == [None, None]
    assert gpus_of(2, 1, ["0", "1", "2"], shared=False) == ["1", "2"]
    assert gpus_of(1, 2, ["4", "6", "7"], shared=False) == ["6,7"]  # of those that this process may use
    assert gpus_of(2, 1, ["4"], shared=True) == ["4", "4"]
    with pytest.raises(
        UserError, match=r"2 servers of 1 GPUs beside the learner need 3, got 2: .* servers\.transfer: ipc"
    ):
        gpus_of(2, 1, ["0", "1"], shared=False)


@pytest.mark.skipif(not on_cpu(), reason="needs a machine without a GPU")
def test_a_cpu_has_no_gpus_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert visible_gpus() == []


# --- servers at urls --------------------------------------------------------------------------------------------------


def test_auto_goes_by_where_servers_are() -> None:
    assert chosen_way(servers(), None, [place()]) == "file"
    assert chosen_way(servers(), None, [place("b")]) == "file"
    assert chosen_way(servers(), "a", [place(way="file")]) == "file"
    assert chosen_way(servers(), "a", [place("b"), place("c", "d")]) == "nccl"
    assert chosen_way(servers(), "a", [place("a", way="ipc")]) == "ipc"
    assert chosen_way(servers(), "a", [place("a", way="ipc"), place("b")]) == "file"  # one way for all of them
    assert chosen_way(servers(), "a", [place("b", way="file")]) == "file"
    assert chosen_way(servers(folder="/mnt"), "a", [place("b")]) == "file"
    assert chosen_way(servers(transfer="file"), "a", [place("b")]) == "file"


@pytest.mark.parametrize(
    ("way", "learner", "where", "said"),
    [
        ("nccl", None, place("b"), "nccl needs a learner on a GPU, got one on a CPU"),
        ("nccl", "a", place(), "nccl needs servers on GPUs, got http://10.0.0.2:8000 on a CPU"),
        ("nccl", "a", place("b", "a"), "nccl needs servers on other GPUs than the learner's, got http"),
        ("nccl", "a", place("b", way="ipc"), "nccl needs servers that grpo serve --transfer nccl started, got .* ipc"),
        ("ipc", "a", place("b", way="ipc"), "ipc needs servers on the learner's GPU alone, got .* on b"),
        ("ipc", "a", place("a", "b", way="ipc"), "ipc needs servers on the learner's GPU alone, got .* on a, b"),
        ("ipc", "a", place("a", way="file"), "ipc needs servers that grpo serve --transfer ipc .* for files alone"),
    ],
)
def test_a_forced_way_that_cannot_be_is_one_sentence(way: str, learner: str | None, where: Place, said: str) -> None:
    with pytest.raises(UserError, match=rf"^rollout\.servers\.transfer: {said}.*, or set transfer: auto$"):
        chosen_way(servers(transfer=way), learner, [where])


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"transfer": "nccl", "folder": "/mnt"}, "folder belongs to transfer: file, got transfer: nccl"),
        ({"transfer": "ipc", "tensor_parallel": 2}, "ipc reaches one GPU, got tensor_parallel 2: use nccl"),
    ],
)
def test_settings_that_contradict_each_other(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        EngineSettings.model_validate({"engine": "vllm-server", "servers": {"count": 1} | given})


@pytest.mark.skipif(not on_cpu(), reason="needs a machine without a GPU")
def test_grpo_serve_refuses_what_the_machine_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(["serve", str(tmp_path), "--transfer", "ipc"]) == 2
    assert capsys.readouterr().err.startswith("rollout.servers.transfer: ipc needs GPUs, got none on this machine")
    assert main(["serve", str(tmp_path), "--transfer", "ipc", "--tensor-parallel", "2"]) == 2
    assert "ipc reaches one GPU, got tensor_parallel 2" in capsys.readouterr().err
