from pathlib import Path

import pytest

from grpo.processor import multiplies_bfloat16

ICE_LAKE = "model name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni\n"
SAPPHIRE_RAPIDS = "flags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
GRAVITON3 = "BogoMIPS\t: 2100.00\nFeatures\t: fp asimd svebf16 i8mm bf16\n"
GRAVITON2 = "Features\t: fp asimd\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(ICE_LAKE, False), (SAPPHIRE_RAPIDS, True), (GRAVITON3, True), (GRAVITON2, False), ("", None)],
)
def test_what_linux_says_of_the_processor(text: str, expected: bool | None, tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(text)
    assert multiplies_bfloat16(file) is expected


def test_another_system_says_nothing(tmp_path: Path) -> None:
    assert multiplies_bfloat16(tmp_path / "none") is None
