from grpo.masked import HIDDEN, masked


def test_keys_and_passwords_are_hidden_wherever_they_stand() -> None:
    rewards = [
        {"name": "remote", "options": {"headers": {"Authorization": "Bearer x"}, "url": "https://me:pw@host/v1"}}
    ]
    command = ["grpo-train", "--set=stages.0.rewards.0.options.headers={Authorization: Bearer x}", "--set", "seed=1"]
    shown = masked({"rewards": rewards, "command": command, "api_key": "x", "password": "", "key_env": "KEY"})
    assert shown == {
        "rewards": [{"name": "remote", "options": {"headers": HIDDEN, "url": f"https://{HIDDEN}@host/v1"}}],
        "command": ["grpo-train", f"--set=stages.0.rewards.0.options.headers={HIDDEN}", "--set", "seed=1"],
        "api_key": HIDDEN,
        "password": "",
        "key_env": "KEY",
    }


def test_a_setting_that_holds_a_key_deeper_down_is_hidden_whole() -> None:
    assert masked(["stages.0.rewards=[{options: {headers: {a: b}}}]"]) == [f"stages.0.rewards={HIDDEN}"]


def test_what_is_no_secret_stays() -> None:
    settings = {"max_new_tokens": 8, "tokenizer": {"special_tokens": ["<think>"]}, "lr": 1e-6, "name": None}
    assert masked(settings) == settings
