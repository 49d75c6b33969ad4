"""What vLLM's transfer engines are told and given, up to the GPU itself; and the transfer, where there is one."""

import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
import torch
from torch.storage import TypedStorage
from transformers import PreTrainedModel

from grpo.checkpoint_names import checkpoint_tensors
from grpo.rollout import server_client
from grpo.rollout.ipc_handles import handles_from_json, handles_to_json
from grpo.rollout.native_sender import (
    CHUNK_BYTES,
    NativeSender,
    PolicySource,
    TransferClient,
    address_towards,
    ipc_info,
    nccl_info,
    run_watched,
)
from grpo.rollout.server_client import ServerClient, ServerDown, ServerRefused

# --- names, dtypes and shapes -----------------------------------------------------------------------------------------


@pytest.fixture
def source(tiny_model: Any) -> PolicySource:
    model: PreTrainedModel = tiny_model("deepseek_v3", tie_word_embeddings=True)
    return PolicySource(checkpoint_tensors(model))


def test_names_are_those_of_a_checkpoint(source: PolicySource) -> None:
    told = {one.name: (one.dtype, one.shape) for one in source.metadata()}
    assert told["model.layers.1.mlp.experts.3.gate_proj.weight"] == (torch.float32, (16, 32))
    assert told["model.layers.1.mlp.gate.e_score_correction_bias"] == (torch.float32, (4,))
    assert "lm_head.weight" not in told  # its embedding stands for it
    assert [name for name, _ in source] == [one.name for one in source.metadata()]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of vLLM's own imports
def test_vllm_takes_the_source(source: PolicySource) -> None:
    """vLLM compares what it was told with what comes, weight by weight, and packs chunks that unpack to the same."""
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine as Trainer
    from vllm.distributed.weight_transfer.packed_tensor import pack_tensors, unpack_tensor

    weights = Trainer._checked_iter(source, source.metadata())  # type: ignore[arg-type]
    unpacked: dict[str, torch.Tensor] = {}
    chunks = 0
    while chunk := pack_tensors(weights, lambda item: item[1], buffer_size_bytes=40_000):
        unpacked |= unpack_tensor(chunk.packed_tensor, chunk.names, chunk.shapes, chunk.dtypes, chunk.tensor_sizes)
        chunks += 1
    assert chunks > 2
    assert unpacked.keys() == source.tensors.keys()
    assert all(torch.equal(unpacked[name], tensor) for name, tensor in source.tensors.items())


def test_a_buffer_holds_the_largest_weight() -> None:
    assert PolicySource({"a": torch.zeros(10)}).chunk_bytes() == CHUNK_BYTES
    large = torch.empty(CHUNK_BYTES // 4 + 3, device="meta")
    assert PolicySource({"a": torch.zeros(10), "b": large}).chunk_bytes() == CHUNK_BYTES + 12


# --- handles ----------------------------------------------------------------------------------------------------------

HANDLE = (
    torch.Tensor, torch.Size([4096]), (1,), 0, TypedStorage, torch.uint8, 0, b"\x00\xffmemory", 4096, 512, False,
    b"counter", 7, b"event\x80", True,
)  # fmt: skip
"""As torch.multiprocessing.reductions.reduce_tensor describes a flat buffer of 4096 bytes on a GPU."""


def test_a_handle_survives_json() -> None:
    there = json.loads(json.dumps(handles_to_json({"GPU-1": HANDLE})))
    back = handles_from_json(there)
    assert back == {"GPU-1": HANDLE}
    assert isinstance(hash(back["GPU-1"]), int)  # vLLM keeps its mapping by them


@pytest.mark.parametrize("changed", [HANDLE[:-1], (*HANDLE[:5], torch.float32, *HANDLE[6:]), ()])
def test_anything_else_is_refused(changed: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="expected the handle of a flat buffer of bytes"):
        handles_to_json({"GPU-1": changed})


# --- the wire ---------------------------------------------------------------------------------------------------------


class Recorder(BaseHTTPRequestHandler):
    """Answers like a server that takes everything, but for the path in `refused`, and notes what it was asked."""

    asked: ClassVar[list[tuple[str, Any]]] = []
    refused = ""
    held = 0

    def do_POST(self) -> None:
        """Answer with the place of one worker; that the cache is not empty `held` times."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert self.headers["authorization"] == "Bearer the key"
        self.asked.append((self.path, body))
        said: dict[str, Any] = {"results": [{"gpu": "GPU-1"}, {"gpu": "GPU-2"}]}
        if self.path == "/reset_prefix_cache":
            said = {"success": Recorder.held == 0}
            Recorder.held = max(0, Recorder.held - 1)
        answer = json.dumps(said).encode()
        self.send_response(500 if self.path == self.refused else 200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def client() -> Iterator[ServerClient]:
    Recorder.asked, Recorder.refused, Recorder.held = [], "", 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ServerClient(f"http://127.0.0.1:{server.server_port}", "the key", 5.0)
    server.shutdown()
    server.server_close()


def test_the_steps_of_a_transfer_as_a_server_sees_them(client: ServerClient) -> None:
    transfer = TransferClient(client)
    transfer.init_weight_transfer_engine({"packed": True})
    transfer.start_weight_update()
    transfer.update_weights({"names": ["a"], "dtype_names": ["float32"], "shapes": [[2, 3]]})
    transfer.finish_weight_update()
    client.name_weights("run-3")
    assert Recorder.asked == [
        ("/shutdown_weight_transfer_engine", {}),
        ("/init_weight_transfer_engine", {"init_info": {"packed": True}}),
        ("/start_weight_update", {}),
        ("/update_weights", {"update_info": {"names": ["a"], "dtype_names": ["float32"], "shapes": [[2, 3]]}}),
        ("/finish_weight_update", {}),
        ("/reset_prefix_cache", {}),
        ("/update_weight_version", {"new_version": "run-3"}),
    ]


def test_weights_have_no_name_before_what_older_ones_made_is_gone(
    client: ServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's completion holds the cache for two questions; then for longer than is waited for."""
    Recorder.held = 2
    client.name_weights("run-3")
    assert [path for path, _ in Recorder.asked] == ["/reset_prefix_cache"] * 3 + ["/update_weight_version"]
    monkeypatch.setattr(server_client, "FORGET_S", 0.2)
    Recorder.asked, Recorder.held = [], 10_000
    with pytest.raises(ServerDown, match=r"/reset_prefix_cache: completions held the cache for 0.2 s"):
        client.name_weights("run-4")
    assert {path for path, _ in Recorder.asked} == {"/reset_prefix_cache"}


def test_a_server_is_reached_as_it_is_named_whatever_proxy_there_is(
    client: ServerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert len(client.describe()["gpus"]) == 2


def test_a_chunk_in_a_gpus_memory_is_named_without_a_pickle(client: ServerClient) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    from dataclasses import asdict

    from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferUpdateInfo as Update

    update = Update(["a", "b"], ["float32", "bfloat16"], [[2], [3]], {"GPU-1": HANDLE}, tensor_sizes=[8, 6])
    TransferClient(client).update_weights(asdict(update))
    ((path, body),) = Recorder.asked
    assert (path, body["method"]) == ("/collective_rpc", "update_by_handles")
    (told,) = body["args"]
    assert Update(**{**told, "ipc_handles": handles_from_json(told["ipc_handles"])}) == update


def test_a_refusal_is_known_to_whoever_waits(client: ServerClient) -> None:
    Recorder.refused = "/update_weights"
    transfer = TransferClient(client)
    transfer.start_weight_update()
    assert not transfer.failure.done()
    with pytest.raises(ServerRefused, match="/update_weights: status 500"):
        transfer.update_weights({"names": []})
    with pytest.raises(ServerRefused):
        transfer.failure.result()


def test_learner_and_workers_of_a_server_meet_at_the_learners_address(
    client: ServerClient, source: PolicySource
) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("vllm")
    info = nccl_info(source, client)
    assert (info.rank, info.world_size, info.master_address) == (0, 3, "127.0.0.1")
    assert (info.packed, info.packed_buffer_size_bytes, ipc_info(source).packed) == (True, CHUNK_BYTES, True)
    assert 1024 <= address_towards("http://127.0.0.1:8000")[1] < 65536


# --- what never returns -----------------------------------------------------------------------------------------------


def test_who_waits_gets_the_result_the_failure_or_the_end_of_time() -> None:
    forever = threading.Event()
    run_watched(lambda: None, Future())
    with pytest.raises(ZeroDivisionError):
        run_watched(lambda: 1 // 0, Future())  # type: ignore[arg-type, return-value]
    failed: Future[None] = Future()
    failed.set_exception(ServerDown("gone"))
    with pytest.raises(ServerDown, match="gone"):
        run_watched(lambda: forever.wait(60), failed)  # type: ignore[arg-type, return-value]
    with pytest.raises(ServerDown, match=r"not taken within 0\.05 s"):
        run_watched(lambda: forever.wait(60), Future(), seconds=0.05)  # type: ignore[arg-type, return-value]
    forever.set()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_closing_what_was_never_used_is_nothing() -> None:
    NativeSender("nccl").close()
