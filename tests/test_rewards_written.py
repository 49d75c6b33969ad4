"""Answers in the words of models: what is right though it is said otherwise, and what only looks right."""

import pytest

from grpo.rewards.accuracy import accuracy

# completion | gold answers it is right for | gold answers it is wrong for, separated by two semicolons
TABLE = r"""
\boxed{71 \approx 71.5 \approx 72 \approx 72.5 \approx 73} | 73 | 71 ;; 72
\boxed{1001 \approx 1000 \approx 1002 \approx 1000 \approx 1003} | | 1001 ;; 1002
\boxed{\pi \approx 3.14} | \pi ;; 3.14 | 3.15
The value of $x$ is $5$. | 5 | x ;; 6
The area of triangle $ABC$ is $12$. | 12 | 13
\( m+n \) is \( 12 \) | 12 | 13
The solutions of $x^2=4$ are $2$ and $-2$. | 2,-2 | 2
The answer is 5. The answer is 6. | | 5 ;; 6
So \boxed{f(2) = 5} | 5 | 6 ;; f(3)=5
So f(2) = 8. | 8 | 2
\boxed{f^{-1}(3)=5} | 5 | 3
\boxed{f'(1)=5} | 5 | 1
\boxed{x-y=5} | 5 | -5
\boxed{a^2+b^2=5} | 5 | 6
\boxed{\frac1a+\frac1b=5} | 5 | \frac15
\boxed{\cos(2x)=\frac12} | \frac12 | 2
\boxed{P(X=3)=\frac18} | \frac18 | 3
\boxed{2x=5} | | 5
\boxed{x^2=5} | | 5
\boxed{\sqrt x=5} | | 5
\boxed{-x=5} | | 5
\boxed{\sum_{k=1}^{4} k} | 10 | 11
\boxed{\int_0^1 x\,dx} | \frac12 | 1
\boxed{10} | \sum_{k=1}^{4} k | \sum_{k=1}^{5} k
She wakes up at 6:45. | 6:45 | 45 ;; 6
Boys and girls are in the ratio 3:5. | 3:5 | 5 ;; 3
He arrives at 7:30 PM. | 7:30 PM | 30
Total: 12 | 12 | 2
The answer is negative 3. | -3 | 3
<answer>minus 3</answer> | -3 | 3
The temperature is minus 3 degrees. | -3 | 3
\boxed{\text{negative } 3} | -3 | 3
\boxed{\begin{cases} x & x>0\\ -x & x\le 0\end{cases}} | \begin{cases} x & \text{if } x>0\\ -x & \text{if } x\leq 0\end{cases} | \begin{cases} -x & x>0\\ x & x\le 0\end{cases}
\boxed{\$1.2 \text{ million}} | 1.2 million ;; 1200000 | 1.2
The answer is $1.2 million. | 1200000 | 1.2
\boxed{12 \times \$5 = \$60} | 60 | 5 ;; 12
\boxed{\$5+\$1=\$7} | | 7 ;; 6
\boxed{\text{7:30 PM}} | 7:30 PM | 7:30 AM
\boxed{\text{July 4}} | 4 July | July 5
\boxed{20 June} | \text{June 20} | June 2
\boxed{f(x)=x \text{ for all } x \in \mathbb{R}} | f(x)=x | f(x)=-x
\boxed{(A)(B)} | | A ;; B
\boxed{A. B. C. D.} | | A
\boxed{A) or maybe B} | | A
\boxed{(A) A triangle} | A | B
\boxed{(A),(B)} | AB ;; A,B | A ;; ABC
(A) and (B) | A,B | A
\boxed{A, B, and C} | ABC | AB
$x=\boxed{5}$ or $x=\boxed{6}$ | 5,6 | 6 ;; 5
\boxed{\$25} | 25 ;; \$25 | 25\%
\boxed{50\%} | 50 | \$50
\boxed{30 cm} | 30 | 30^\circ
Answer: Natalia sold 48/2 = 24 clips in May. Altogether she sold 48+24 = 72 clips. | 72 | 24 ;; 48
Answer: 12. As a check, 3*4 is 12 and not 13. | 12 | 13
So she has 42 apples. This answer is correct because 6*7=42. | 42 | 7
<answer>6 and a half</answer> | | 6
\boxed{3 \text{ hours and } 20 \text{ minutes}} | 3 \text{ hours } 20 \text{ minutes} ;; 200 minutes | 3 hours ;; 20 minutes
\boxed{66 inches} | 5 feet 6 inches | 5 feet
\boxed{(1010)_2} | 1010_2 | 1010_3
"""

ROWS = [[part.strip() for part in line.split(" | ")] for line in TABLE.strip().replace(" | |", " |  |").splitlines()]
CASES = [
    (completion, gold.strip(), expected)
    for completion, right, wrong in ROWS
    for golds, expected in ((right, 1.0), (wrong, 0.0))
    for gold in golds.split(";;")
    if gold.strip()
]


@pytest.fixture(scope="module")
def verdicts() -> list[object]:
    return list(accuracy([case[0] for case in CASES], answer=[case[1] for case in CASES]))


@pytest.mark.parametrize("place", range(len(CASES)), ids=[f"{text[:40]} / {gold}" for text, gold, _ in CASES])
def test_an_answer_as_it_is_written(verdicts: list[object], place: int) -> None:
    assert verdicts[place] == CASES[place][2]
