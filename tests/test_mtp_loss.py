import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from grpo.batch import Trajectory, make_batch, pack
from grpo.cli import train
from grpo.forward import final_hidden, prepare_packing
from grpo.grpo_stage import GrpoStage
from grpo.learner import Learner, train_step
from grpo.loss_settings import GrpoLoss, KlSettings
from grpo.losses import make_loss
from grpo.mtp import add_predictor, own_parameters, predicting_decoder, predictor_input, predictor_of
from grpo.mtp_loss import MtpTerm, mtp_settings, predicted_logprobs, scores_with_mtp, shift, term_at
from grpo.mtp_settings import MtpSettings, RlMtpSettings
from grpo.objective import CrossEntropy, PolicyGradient
from grpo.types import TokenSequence, UserError

CPU = torch.device("cpu")
SEQUENCES = [
    TokenSequence((5, 60, 7), (200, 9, 31, 4)),
    TokenSequence((5, 60, 7), (8,)),
    TokenSequence((5, 60, 7), (17, 21)),
    TokenSequence((90, 91), (92, 93, 94)),
    TokenSequence((40,), (41, 42, 43)),
    TokenSequence((40,), (44, 45)),
    TokenSequence((40,), (46,)),
]
VECTORS = json.loads((Path(__file__).parent / "golden.json").read_text(encoding="utf-8"))["vectors"]


@pytest.fixture
def model_of(tiny_model, byte_tokenizer):
    def make(family: str, **config):
        model = tiny_model(family, **config)
        add_predictor(model, seed=1)
        assert prepare_packing(model, byte_tokenizer) == []
        return model

    return make


def apart(model, sequence: TokenSequence) -> torch.Tensor:
    """Log-probabilities of a sequence's targets from the predictor, computed alone and without packing."""
    ids = torch.tensor([[*sequence.prompt_ids, *sequence.target_ids]])
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    given = predictor_input(model, hidden[:, :-2], ids[:, 1:-1])
    logits = model.get_output_embeddings()(predicting_decoder(model)(inputs_embeds=given, use_cache=False)[0])
    cap = getattr(model.config, "final_logit_softcapping", None)
    logits = cap * torch.tanh(logits / cap) if cap else logits
    logprobs = logits.log_softmax(-1).gather(-1, ids[:, 2:, None])[0, :, 0]
    return logprobs[-len(sequence.target_ids) :]


@pytest.mark.parametrize("family", ["deepseek_v3", "llama", "qwen2", "qwen3_moe", "mistral", "gemma2", "deepseek_v2"])
def test_packed_groups_give_what_each_sequence_gives_alone(model_of, family) -> None:
    model, tokens = model_of(family), pack(SEQUENCES, CPU)
    hidden_TD, _ = final_hidden(model, tokens)
    packed = predicted_logprobs(model, hidden_TD, tokens, shift(tokens), 1.0, detached=False)
    # The second token of a text has no prediction: the first targets of the prompt of one token.
    alone = torch.cat([apart(model, sequence) for sequence in SEQUENCES if len(sequence) > 2])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    one, other = (torch.autograd.grad(p.sum(), list(model.parameters()), allow_unused=True) for p in (packed, alone))
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-5 * max(1.0, b.abs().max().item()), rtol=0)


def test_alignment_and_division_are_the_papers() -> None:
    vector = VECTORS["mtp.loss_D1"]
    ids = vector["inputs"]["tokens_t1_t5"]
    tokens = pack([TokenSequence(tuple(ids[:1]), tuple(ids[1:]))], CPU)
    shifted = shift(tokens)
    found = [
        {
            "i": place + 1,
            "h_from": shifted.before_M[place].item() + 1,
            "emb_token": tokens.token_ids_T[shifted.index_M[place]].item(),
            "target": tokens.target_ids_N[target].item(),
        }
        for place, target in zip(shifted.place_K.tolist(), shifted.target_K.tolist(), strict=True)
    ]
    assert found == vector["expected"]["alignment_1based_i"]


def test_the_loss_of_given_probabilities(model_of) -> None:
    """The predictor is made to say them: its layer adds nothing to the embedding that it is fed."""
    vector = VECTORS["mtp.loss_D1"]
    ids, probabilities = vector["inputs"]["tokens_t1_t5"], vector["inputs"]["target_probs_depth1"]
    model = model_of("llama", tie_word_embeddings=False, rms_norm_eps=1e-12).double()
    width, predictor = model.config.hidden_size, predictor_of(model)
    with torch.no_grad():
        for projection in (predictor.self_attn.o_proj, predictor.mlp.down_proj):
            projection.weight.zero_()
        predictor.eh_proj.weight.copy_(torch.cat([torch.eye(width), torch.zeros(width, width)], 1))
        model.lm_head.weight.fill_(-1e3)
        for place, p in enumerate(probabilities):
            model.get_input_embeddings().weight[ids[place + 1]] = torch.eye(width)[place]
            model.lm_head.weight[ids[place + 2], place] = torch.tensor(p).log() / width**0.5
            model.lm_head.weight[0, place] = torch.tensor(1 - p).log() / width**0.5
    tokens = pack([TokenSequence(tuple(ids[:1]), tuple(ids[1:]))], CPU)
    weight = vector["options"]["lambda"]
    without, _ = CrossEntropy(4)(model, tokens)
    loss, tally = CrossEntropy(4, mtp=MtpTerm(weight, detached=False))(model, tokens)
    assert (loss + tally.figures()["loss"]).item() == pytest.approx(without.item())  # the figure is the trunk's
    assert (loss - without).item() == pytest.approx(vector["expected"]["L_MTP_paper"], abs=1e-5)
    assert (loss - without).item() / weight == pytest.approx(vector["expected"]["L1_div_T"], abs=1e-5)
    assert tally.figures()["mtp/loss"] == pytest.approx(vector["expected"]["L1_div_valid"], abs=1e-5)


def test_the_weight_falls_after_two_thirds_of_the_steps() -> None:
    settings = MtpSettings()
    assert [settings.weight_at(step, 100) for step in (0, 67, 68, 99)] == [0.3, 0.3, 0.1, 0.1]
    assert {RlMtpSettings().weight_at(step, 10) for step in range(10)} == {0.1}


def test_a_detached_trunk_feels_nothing_of_it(model_of) -> None:
    model, tokens = model_of("deepseek_v3"), pack(SEQUENCES, CPU)
    own = {id(parameter) for parameter in own_parameters(model)}
    for detached in (True, False):
        scores, loss_N, _ = scores_with_mtp(model, tokens, 1.0, MtpTerm(0.5, detached))
        assert scores.logprobs_N.shape == loss_N.shape
        moved = torch.autograd.grad(loss_N.sum(), list(model.parameters()), allow_unused=True)
        reached = {id(p) for p, g in zip(model.parameters(), moved, strict=True) if g is not None and g.abs().sum() > 0}
        assert bool(reached - own) is not detached
        assert len(reached & own) > 10


def stage(**values) -> GrpoStage:
    problems = {"function": "grpo.tasks.arithmetic:sums"}
    given = {"kind": "grpo", "steps": 3, "lr": 1e-2, "problems": problems, "rewards": [{"name": "accuracy"}]}
    return GrpoStage.model_validate(given | values)


def test_rewards_move_the_policy_as_if_there_were_no_predictor(model_of) -> None:
    """Three steps of reinforcement learning: the trunk is the same to the bit, while the predictor learns."""
    trunks, losses = [], []
    for term in (None, MtpTerm(0.1, detached=True)):
        model = model_of("deepseek_v3")
        learner = Learner(model, stage(), 3, Accelerator(cpu=True))
        objective = PolicyGradient(make_loss(GrpoLoss()), 1.0, KlSettings(beta=0), None, 0.0, mtp=term)
        rows = [Trajectory(s, (-1.0,) * len(s.target_ids), (-1.0,) * len(s.target_ids), 1.0, 0.1) for s in SEQUENCES]
        tallies = [train_step(learner, [make_batch(rows, CPU)], objective, step) for step in range(3)]
        own = {id(parameter) for parameter in own_parameters(model)}
        trunks.append([parameter for parameter in model.parameters() if id(parameter) not in own])
        losses.append([tally.figures().get("mtp/loss") for tally in tallies])
    assert all(torch.equal(a, b) for a, b in zip(*trunks, strict=True))
    assert losses[1][2] < losses[1][0]


def test_a_layer_that_is_left_as_it_is_is_frozen_and_one_that_is_missing_is_said(model_of, tiny_model) -> None:
    model = model_of("llama")
    assert mtp_settings(model, RlMtpSettings(weight=0, later_weight=0), RlMtpSettings()) is None
    assert not any(parameter.requires_grad for parameter in own_parameters(model))
    assert mtp_settings(tiny_model("llama"), None, MtpSettings()) is None
    assert term_at(None, 0, 10) is None
    with pytest.raises(UserError, match="no layer of multi-token prediction to train: set model"):
        mtp_settings(tiny_model("llama"), MtpSettings(), MtpSettings())


def test_an_architecture_that_cannot_be_packed_is_refused(tiny_model, byte_tokenizer) -> None:
    model = tiny_model("llama")
    add_predictor(model, seed=0)
    with pytest.raises(UserError, match="LlamaForCausalLM cannot be given packed sequences"):
        mtp_settings(model, None, MtpSettings())


@pytest.mark.parametrize("lora", ["null", "{rank: 2}"])
def test_a_run_trains_it_and_goes_on_bit_for_bit(write_recipe, lora) -> None:
    common = {"steps": 4, "checkpoint_every": 2, "lr": 3e-3}
    sampled = {"prompts_per_step": 2, "completions_per_prompt": 4, "rollout": {"max_new_tokens": 8}}
    stages = [{"kind": "sft", "examples_per_step": 4, **common}, {"kind": "grpo", **sampled, **common}]
    rewards = [{"name": "length", "options": {"target": 3, "buffer": 4}}]
    recipe = write_recipe(stages=stages, rewards=rewards)
    command = [str(recipe), "--set=model.mtp=add", f"--set=model.lora={lora}"]
    assert train(command) == 0
    runs = recipe.parent / "runs" / "tiny"
    before = {stage: load_file(runs / stage / "model" / "model.safetensors") for stage in ("01-sft", "02-grpo")}
    names = [name for name in before["01-sft"] if name.startswith("model.layers.2.")]
    assert len(names) > 20
    assert any(not torch.equal(before["01-sft"][name], before["02-grpo"][name]) for name in names)
    rows = [json.loads(line) for line in (runs / "01-sft" / "metrics.jsonl").read_text().splitlines()]
    assert [row["mtp/weight"] for row in rows] == [0.3, 0.3, 0.3, 0.1]
    assert "mtp/loss" in (runs / "02-grpo" / "metrics.jsonl").read_text()
    for stage in before:  # as if the run had been killed after step 2
        shutil.rmtree(runs / stage / "checkpoints" / "step-000004")
        shutil.rmtree(runs / stage / "model")
        (runs / stage / "complete.json").unlink()
    assert train(command) == 0
    for stage, weights in before.items():
        after = load_file(runs / stage / "model" / "model.safetensors")
        assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
