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
\boxed{2\sqrt3 \text{ (approximately } 3.46)} | 2\sqrt3 | 3\sqrt3
\boxed{2\sqrt3 \text{ (approximately } 3.6)} | | 2\sqrt3 ;; 3.6
\boxed{\frac12 (or 0.5)} | \frac12 ;; 0.5 | \frac14
\boxed{\frac12 (or 0.6)} | | \frac12 ;; 0.6 ;; 0.3
\boxed{5 (or 6)} | | 5 ;; 6 ;; 30
\boxed{x < 2 (or x > 5)} | | x < 2 ;; x > 5
\boxed{x (or y)} | | x ;; y
\boxed{\frac13 \text{ (approx. 0.333)}} | \frac13 | 0.3
\boxed{30\sqrt2 \text{ cm (about 42.4 cm)}} | 30\sqrt2 | 30
The answer is $2\sqrt3$ (approximately 3.46). | 2\sqrt3 | 3\sqrt3
\boxed{5(2+1)} | 15 | 5
\boxed{\textcolor{blue}{42}} | 42 | 43
\boxed{\color{red}{42}} | 42 | 43
\boxed{\large 42} | 42 | 43
\boxed{\displaystyle\frac12} | \frac12 | \frac13
\boxed{\textcolor{red}{B}} | B | A
\boxed{{10 \choose 5}} | 252 ;; \binom{10}{5} | 2 ;; \binom{10}{4}
\boxed{{n+1 \choose 2} + 1} | \binom{n+1}{2}+1 | \binom{n+2}{2}
\boxed{P(1,2)} | (1,2) ;; P=(1,2) | (2,1) ;; [1,2] ;; Q(1,2)
\boxed{A = (1,2)} | (1,2) ;; A(1,2) | (2,1)
\boxed{A(1,2), B(3,4)} | (1,2),(3,4) ;; A=(1,2), B=(3,4) | (3,4) ;; A=(3,4), B=(1,2)
\boxed{P(5,2)} | | 20 ;; 10
\boxed{f(1,2)} | | (1,2)
\boxed{\left\{\begin{array}{l}x=1\\y=2\end{array}\right.} | x=1,y=2 ;; (x,y)=(1,2) | x=2,y=1 ;; (x,y)=(2,1)
\boxed{\begin{aligned} x &= 3\\ y &= 4\end{aligned}} | x=3,y=4 ;; (x,y)=(3,4) | x=4,y=3 ;; (x,y)=(4,3)
\boxed{\begin{array}{rcl} x & = & 3\\ y & = & 4\end{array}} | x=3,y=4 | x=4,y=3
\boxed{\begin{aligned} x &= 3\\ x &= 4\end{aligned}} | 3,4 | 3 ;; 4
\boxed{\{x=1,y=2\}} | x=1,y=2 | x=2,y=1
\boxed{\left\{\begin{pmatrix}1\\2\end{pmatrix}\right\}} | \left\{\begin{pmatrix}1\\2\end{pmatrix}\right\} | \left\{\begin{pmatrix}2\\1\end{pmatrix}\right\}
\boxed{\text{Rs. } 500} | 500 ;; ₹500 | 50 ;; \$500
\boxed{Rs.500} | 500 | 0.5 ;; \$500
The answer is Rs. 500. | 500 ;; Rs 500 | 50 ;; \$500
\boxed{USD 500} | 500 ;; \$500 | 50 ;; €500
\boxed{500 USD} | 500 ;; \$500 | 50 ;; €500
\boxed{500 INR} | 500 ;; ₹500 | \$500
\boxed{₹500} | 500 ;; Rs. 500 | 50 ;; €500
\boxed{€ 50} | 50 ;; 50 EUR | 500 ;; \$50
\boxed{\text{two-thirds}} | \frac23 | \frac32 ;; 2
The answer is three quarters. | \frac34 | 3 ;; \frac43
one half | \frac12 | 1 ;; \frac13
\boxed{\text{minus two thirds}} | -\frac23 | \frac23
\boxed{\text{twenty-third}} | | 23 ;; \frac{20}{3} ;; 20
\boxed{\text{one and a half}} | | 1 ;; \frac12
\boxed{\text{one-to-one}} | one-to-one | 1
Yes, she can. | Yes | No
No, it is not. | No | Yes
\boxed{\text{Yes, she cannot.}} | | Yes ;; No
Yes and no | | Yes ;; No
Yes, but no | | Yes ;; No
\boxed{\text{No-one}} | | No
We compare 3 and 4. Option B is correct. | B | A
We compare 3 and 4. Option **B** is correct. | B | A
We compare 3 and 4. So the correct option is B. | B | A
Option B is correct. Option A is correct too. | A,B | A ;; B
\boxed{\text{the set of all real numbers except } 1} | \mathbb{R}\setminus\{1\} | \mathbb{R} ;; 1 ;; \emptyset
The answer is the set of all real numbers except 1. | \mathbb{R}\setminus\{1\} | \mathbb{R} ;; 1
\boxed{\text{all real numbers except } x = 1} | \mathbb{R}\setminus\{1\} | \mathbb{R}\setminus\{2\} ;; \emptyset
\boxed{\mathbb R-\{1\}} | \mathbb{R}\setminus\{1\} | \mathbb{R}\setminus\{2\} ;; \mathbb{R}
\boxed{\mathbb{R}\setminus\{a\}} | \mathbb{R}-\{a\} | \mathbb{R}\setminus\{b\} ;; \emptyset
\boxed{[0,1[} | [0,1) | [0,1] ;; (0,1) ;; (0,1]
\boxed{]-\infty,0[\,\cup\,]2,3]} | (-\infty,0)\cup(2,3] | (-\infty,0]\cup[2,3]
\boxed{[1,\sqrt[3]{2}]} | [1,\sqrt[3]{2}] | [1,\sqrt[3]{2})
The answer is A (Paris). | A | B
The answer is B (12). | B | A ;; 12
\boxed{A, Paris} | A ;; A. Paris | B ;; A. London
A - Paris | A | B
\boxed{A, or rather B} | | A ;; B
\boxed{A (or B)} | | A ;; B
\boxed{A, AB} | | A
\boxed{A (wrong)} | | A
\boxed{A - 3} | | A
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
