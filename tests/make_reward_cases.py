"""Writes reward_cases.jsonl: a gold answer, what equals it and what only looks like it, in the ways models answer.

python tests/make_reward_cases.py > tests/reward_cases.jsonl
"""

import json
import re

FRAMES = (
    "So it is \\boxed{%s}.",
    "<think>Let me see. 17?</think><answer>%s</answer>",
    "The answer is %s.",
    "We get \\[\\boxed{%s}\\] as required.",
    "**Final Answer:** %s",
    "<think>hm, 3? no.</think>\nThe final answer is $%s$. I hope it is correct.",
)
PLAIN_FRAMES = ("The answer is %s.", "<answer>%s</answer>", "%s", "Final answer: %s", "\\boxed{%s}")

# stratum: gold | right, right ... | wrong, wrong ... (each list item separated by two spaces or more)
TABLE = r"""
integer     | 72    | 72   72.0   +72   72.   \$72   72\text{ apples}   72 dollars | 720   -72   7.2   72.5   172   70+3
integer     | 1000  | 1,000   1{,}000   1\,000   1 000   10^3   10^{3}   1e3   1.0\times10^{3}   1000.00 | 10,000   100   1,00   10^4   1001
integer     | 1234567 | 1,234,567   1{,}234{,}567   1234567.0 | 1,234,56   123,4567   1234568   1,234,576
integer     | -3    | −3   -3.0   x = -3   - 3 | 3   -30   --3   |-3|
integer     | 0     | 0.0   -0   0/5 | 1   1/0   10   0.001
integer     | 25    | twenty-five   5^2   5\cdot5   100/4   x=25 | 2.5   52   5^3   \sqrt{25}   fifty-two
decimal     | 0.5   | 1/2   .5   0.50   50\%   \frac12 | 0.05   5   0.51   0.500001   \frac15
decimal     | 3.14  | 3.140   157/50   314\% | \pi   3.1   3.141   3.15   22/7
decimal     | 0.001 | 10^{-3}   1e-3   1/1000   0.1\% | 0.01   10^3   -0.001   0.0010001
fraction    | \frac{3}{4} | 3/4   0.75   \frac34   \dfrac{3}{4}   \tfrac34   75\%   \frac{6}{8}   ¾   {3\over4} | \frac{4}{3}   3.4   \frac{3}{5}   -\frac34   0.7   34
fraction    | -\frac{2}{7} | -2/7   \frac{-2}{7}   \frac{2}{-7}   -\frac27   -\dfrac{2}{7} | \frac27   -\frac72   -0.2857   2/7
fraction    | 1/3   | \frac13   0.\overline{3}   0.333\ldots   2/6 | 0.333   0.333333   0.3   3   1/30
mixed       | 3\frac{1}{2} | 7/2   3.5   3 1/2   3½   3\tfrac12   \frac{7}{2} | 31/2   3/2   3\cdot\frac12   3.2   \frac{2}{7}
percent     | 28\%  | 28   0.28   28 percent   28%   \frac{28}{100} | 2.8\%   280   0.028   29\%   -28\%
money       | \$12.50 | 12.5   12.50 dollars   \$12.5   $12.50   12.50 | \$1250   12.05   \$12.51   12.50 euros   12.50 cents
unit        | 15\mbox{ cm}^2 | 15   15\text{ cm}^2   15 cm^2   15\ \mathrm{cm}^2   15 square centimeters   15\text{ square cm} | 15\text{ cm}   15\text{ m}^2   1.5\text{ cm}^2   16   15^2
unit        | 5 km  | 5000 m   5\text{ km}   5 kilometers   5 | 5 m   500 m   5 miles   50 km   5\text{ km/h}
unit        | 90^\circ | 90   90°   90 degrees   \frac{\pi}{2}   90^{\circ}   90\degree | 45^\circ   9^\circ   90\%   \pi   180
unit        | 60\text{ mph} | 60   60 miles per hour   60\text{ miles/hour} | 60\text{ km/h}   6   60\text{ miles}
root        | \frac{\sqrt{2}}{2} | \frac{1}{\sqrt2}   \sqrt{\frac12}   \frac{\sqrt2}2   2^{-1/2}   \sqrt{0.5} | \sqrt2   \frac{\sqrt{2}}{4}   0.7071   \frac{2}{\sqrt{3}}   -\frac{\sqrt2}{2}
root        | 3\sqrt{13} | \sqrt{117}   \sqrt{9\cdot13}   3\cdot\sqrt{13}   3 \sqrt {13} | \sqrt{39}   3\sqrt{31}   13\sqrt3   \sqrt{13}   10.8167
root        | 2\sqrt[3]{2} | \sqrt[3]{16}   2^{4/3}   2\cdot 2^{1/3} | \sqrt[3]{8}   2\sqrt{2}   2^{3/4}   3\sqrt[2]{2}
root        | 1+\sqrt{2} | \sqrt2+1   \frac{1}{\sqrt2-1}   \frac{2+2\sqrt2}{2}   \sqrt{3+2\sqrt2} | 1-\sqrt2   \sqrt3   2.414   2+\sqrt1
constant    | 2\pi  | 2 \pi   \pi\cdot2   \frac{4\pi}{2}   \pi+\pi   360^\circ | 6.28   \pi^2   2+\pi   \frac{2}{\pi}   6.2831853
constant    | e^2   | e\cdot e   \exp(2)   e^{2}   \frac{e^3}{e} | 2e   7.389   e^{-2}   2^e
log         | \ln 2 | \log_e 2   \frac{\ln 4}{2}   -\ln\frac12 | \log_{10} 2   \ln 3   0.693   2\ln2
log         | 3     | \log_2 8   \log_{10} 1000   \frac{\ln 8}{\ln 2} | \log_2 9   \ln 3   \log_8 2
trig        | \sin 2x | 2\sin x\cos x   2\cos(x)\sin(x)   \sin(2x) | 2\sin x   \cos 2x   \sin^2 x   \sin x^2
trig        | 1     | \sin^2 x+\cos^2 x   \tan\frac{\pi}{4}   \sin 90^\circ | \sin^2x-\cos^2x   \tan x\cot 2x   \sin\frac{\pi}{4}
complex     | 3-4i  | -4i+3   3 - 4 i   (2-i)^2   \frac{25}{3+4i} | 3+4i   4-3i   -3+4i   5   3-4
polynomial  | x^2+2x+1 | (x+1)^2   1+2x+x^2   x(x+2)+1   x^{2}+2x+1 | x^2+1   (x-1)^2   x^2+2x-1   2x+1   x^2+2y+1
polynomial  | (x-2)(x+3) | x^2+x-6   (x+3)(x-2) | (x+2)(x-3)   x^2-x-6   x^2+x+6
rational    | \frac{x+2}{7} | \frac{x}{7}+\frac27   (x+2)/7   \frac{2x+4}{14} | \frac{x}{7}+2   x+\frac27   \frac{7}{x+2}   \frac{x-2}{7}
rational    | \frac{1}{x(x+1)} | \frac1x-\frac{1}{x+1}   \frac{1}{x^2+x} | \frac{1}{x^2+1}   \frac1x+\frac1{x+1}   x(x+1)
expression  | \frac{n(n+1)}{2} | \frac{n^2+n}{2}   \binom{n+1}{2}   0.5n(n+1) | \frac{n(n-1)}{2}   n(n+1)   \binom{n}{2}   \frac{m(m+1)}{2}
factorial   | \frac{1}{2004!} | 1/2004!   \frac{2005}{2005!} | \frac{1}{2006!}   \frac{1}{2003!}   0   2004!
factorial   | 120   | 5!   \binom{10}{3}   6\cdot5\cdot4   \frac{6!}{3!} | 5   5!!   4!   \binom{10}{4}
power       | 2^{100} | 4^{50}   2^{50}\cdot2^{50}   1267650600228229401496703205376 | 2^{10}   100^2   1.27\times10^{30}   1267650600228229401496703205377
equation    | x=5   | 5   5=x   x = 10/2 = 5   x=5.0 | y=5   x=6   x=-5   5=6   x>5
equation    | y=2x+1 | 2x-y+1=0   y-2x=1   2x+1   f(x)=2x+1   y = 1+2x | y=2x-1   x=2y+1   y=2x   2y=2x+1
equation    | x^2+y^2=25 | y^2+x^2=25   x^2=25-y^2   25=x^2+y^2   2x^2+2y^2=50 | x^2-y^2=25   x^2+y^2=5   x+y=5   25
equation    | 34x+45y-20z+100=0 | -34x-45y+20z-100=0   34x+45y+100=20z | 34x+45y+20z+100=0   34x+45y-20z=100   34x-45y-20z+100=0
inequality  | x>3   | 3<x   (3,\infty)   x\in(3,\infty)   x > 3.0   2x>6 | x\ge3   x<3   (3,4)   [3,\infty)   x>4   x>-3
inequality  | x\le -2 | (-\infty,-2]   -2\ge x   x \leq -2   x<=-2 | x<-2   x\le2   (-\infty,-2)   x\ge-2
inequality  | 1<x\le4 | (1,4]   x\in(1,4]   4\ge x>1   1 < x <= 4 | [1,4]   (1,4)   1\le x<4   1<x\le5   (4,1]
inequality  | y<2x+1 | 2x+1>y   y-2x<1   2x-y+1>0 | y\le2x+1   y>2x+1   y<2x-1
interval    | [0,1) | \left[0,1\right)   0\le x<1   [0, 1)   x\in[0,1)   \{x : 0\le x<1\} | (0,1]   [0,1]   (0,1)   [0,9)   [1,0)
interval    | (-\infty,3)\cup(5,\infty) | x<3\text{ or }x>5   (5,\infty)\cup(-\infty,3)   (-\infty, 3) \cup (5, +\infty)   (-∞,3)∪(5,∞) | (-\infty,3]\cup[5,\infty)   (3,5)   (-\infty,5)\cup(3,\infty)   (-\infty,3)\cap(5,\infty)   (-\infty,3)
interval    | \mathbb{R}\setminus\{2\} | x\ne2   (-\infty,2)\cup(2,\infty)   x \neq 2 | \mathbb{R}   x=2   (2,\infty)   \{2\}   x\ne-2
interval    | (\frac35,\frac83] | (0.6,\frac{8}{3}]   \left(\frac{3}{5},\frac{8}{3}\right]   \frac35<x\le\frac83 | (0.6,2.6667]   [\frac35,\frac83)   (\frac53,\frac83]
set         | \{1,2,3\} | \{3,2,1\}   1,2,3   3, 1, 2   {1,2,3}   \{1, 2, 3, 3\} | \{1,2\}   \{1,2,4\}   (1,2,3)   1   \{1,2,3,4\}   123
set         | \{1\pm\sqrt5,-2\} | -2,1+\sqrt5,1-\sqrt5   \{-2,1-\sqrt{5},1+\sqrt{5}\} | \{1+\sqrt5,-2\}   \{1\pm\sqrt5,2\}   -2
set         | \emptyset | \varnothing   \{\}   no solution   ∅ | \{0\}   0   \{\emptyset\}   all real numbers
list        | -2,1  | 1,-2   x=-2,x=1   x=1\text{ or }x=-2   \{-2,1\}   -2 \text{ and } 1   x_1=1, x_2=-2 | -2   1   2,1   -2,-1   -2,1,0   -1
list        | 12 \text{ and } 13 | 12,13   13, 12   12 and 13 | 12   13   12,14   1213
plusminus   | \pm 2 | 2,-2   -2, 2   x=\pm2   2\text{ or }-2   ±2 | 2   -2   \pm4   0   2,2
plusminus   | 1\pm\sqrt{19} | 1+\sqrt{19},1-\sqrt{19}   1 \pm \sqrt {19}   \frac{2\pm\sqrt{76}}{2} | 1+\sqrt{19}   -1\pm\sqrt{19}   1\pm\sqrt{91}   \pm\sqrt{19}
tuple       | (3,\frac{\pi}{2}) | \left(3,\frac{\pi}{2}\right)   (3, \pi/2)   (3.0,\frac12\pi) | (\frac{\pi}{2},3)   (3,\pi)   (3,-\frac{\pi}{2})   3,   [3,\frac{\pi}{2})
tuple       | (6,31,-1) | (6, 31, -1)   6,31,-1   p=6,q=31,r=-1   (p,q,r)=(6,31,-1)   \langle 6,31,-1\rangle | (31,6,-1)   (6,31,1)   (6,31)   (6,-1,31)   6
tuple       | (1,2) | (1.0,2)   x=1,y=2   1, 2   (x,y)=(1,2) | (2,1)   [1,2)   (1,2,0)   (1,20)   12   (-1,2)
tuple       | (1,2),(3,4) | (3,4),(1,2)   (1,2)\text{ and }(3,4)   (1,2), (3,4) | (1,2)   (2,1),(3,4)   (1,3),(2,4)   1,2,3,4
matrix      | \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{bmatrix}1&2\\3&4\end{bmatrix}   \left[\begin{array}{cc}1 & 2 \\ 3 & 4\end{array}\right]   [[1,2],[3,4]] | \begin{pmatrix}1&3\\2&4\end{pmatrix}   \begin{pmatrix}1&2\\3&5\end{pmatrix}   \begin{vmatrix}1&2\\3&4\end{vmatrix}   -2   (1,2,3,4)
matrix      | \begin{pmatrix}-1\\\frac12\end{pmatrix} | \begin{pmatrix} -1 \\ 0.5 \end{pmatrix}   (-1,\frac12)   \begin{bmatrix}-1\\1/2\end{bmatrix} | \begin{pmatrix}-1&\frac12\end{pmatrix}   \begin{pmatrix}\frac12\\-1\end{pmatrix}   \begin{pmatrix}1\\\frac12\end{pmatrix}
base        | 204_5 | 204_{5}   204   204_{five} | 204_6   240_5   54_5   20_5
base        | 1010_2 | 1010_{2}   1010 | 10   1011_2   1010_3   1010_{10}
ratio       | 3:4   | 6:8   3 : 4   \frac34   0.75 | 4:3   3:5   34   3:4:5
choice      | C     | (C)   \text{C}   \text{(C)}   C.   C. 12   \mathrm{(C)}   Option C   \textbf{(C)}   c | B   (D)   A or C   \text{CD}   None   C or D
choice      | (B)   | B   \text{B}   (B) 7 | A   (A) B   (C)   8
text        | \text{Evelyn} | Evelyn   \textbf{Evelyn}   evelyn   "Evelyn"   \mathrm{Evelyn} | Carla   \text{Evelyn and Carla}   Eve   Not Evelyn
text        | Tuesday | \text{Tuesday}   tuesday   Tuesday. | Thursday   Tues or Wed   Monday   Tuesday or Wednesday
text        | yes   | Yes   \text{Yes}   YES | no   No   not yes   yes or no
text        | even  | \text{even}   Even | odd   event   not even   neither
text        | Mount Everest | mount everest   \text{Mount Everest}   Mount  Everest. | Everest or K2   K2   Mount Everett
date        | July 4, 1776 | 4 July 1776   July 4th, 1776   1776-07-04   4th of July, 1776 | July 5, 1776   July 4, 1767   April 7, 1776   July 1776
date        | 3:30 p.m. | 3:30 PM   3:30pm   15:30   \text{3:30 p.m.} | 3:30 a.m.   3:03 p.m.   3:20 PM   3.3
modulus     | 3 \pmod{7} | 3   3\pmod{7}   x\equiv3\pmod 7 | 4 \pmod 7   3\pmod 5   37
inf         | \infty | +\infty   ∞   infinity | -\infty   0   1000000   \frac{\infty}{2}
function    | f(2) < f(1) < f(4) | f(2)<f(1)<f(4)   f(4) > f(1) > f(2) | f(1)<f(2)<f(4)   f(4)<f(1)<f(2)   f(2)<f(1)
absolute    | |x-3| | |3-x|   \lvert x-3\rvert   |x - 3|   \left|x-3\right| | x-3   |x+3|   |x|-3   3-x
general     | \frac{\pi}{4}+k\pi, k\in\mathbb{Z} | k\pi+\frac{\pi}{4}, k\in\mathbb{Z}   \frac{\pi}{4}+k\pi   x=\frac{\pi}{4}+k\pi | \frac{\pi}{4}+2k\pi, k\in\mathbb{Z}   \frac{\pi}{4}   k\pi, k\in\mathbb{Z}
"""

PLAIN = r"""
plain       | \frac{\sqrt{2}}{2} | sqrt(2)/2   1/sqrt(2)   2^(-1/2)   0.5*sqrt(2)   (1/2)^(1/2) | sqrt(2)   sqrt(2)/4   sqrt(2/4)/2   -sqrt(2)/2
plain       | x^2+1 | x**2+1   x^2 + 1   1+x*x   (x^2)+1 | x**2-1   x^2   2*x+1   x^3+1
plain       | 2\pi  | 2*pi   2 pi   pi*2   4*pi/2   2pi | pi^2   pi   2+pi   2*p
plain       | \frac{x+1}{x-1} | (x+1)/(x-1)   1+2/(x-1)   -(x+1)/(1-x) | x+1/x-1   (x-1)/(x+1)   (x+1)/(x+1)
plain       | \sqrt{x^2+4} | sqrt(x^2+4)   (x**2+4)**0.5   sqrt(4 + x^2) | sqrt(x^2)+4   x+2   sqrt(x^2-4)
plain       | 3\sqrt{5}-2 | 3*sqrt(5)-2   -2+3sqrt(5)   sqrt(45)-2   3 sqrt 5 - 2 | 3*sqrt(5)+2   3*sqrt(3)   sqrt(15)-2
plain       | e^{-x}\cos x | exp(-x)*cos(x)   e^(-x)*cos(x)   cos(x)/e^x | exp(x)*cos(x)   e^(-x)*sin(x)   -e^x*cos(x)
plain       | \log_2 5 | log(5)/log(2)   ln(5)/ln(2)   log(5, 2) | log(2)/log(5)   log(5)   log(10)/log(4)+1
plain       | \ln x | ln(x)   log(x)   ln x | ln(x^2)   1/x   log(y)
plain       | \frac{7}{12} | 7/12   (7/12)   14/24   1/3+1/4 | 12/7   7/13   7/1.2   -7/12
plain       | 2^{10} | 2^10   2**10   1024 | 2*10   20   10^2   2**11
plain       | (2,-3) | (2, -3)   x=2, y=-3 | (-3, 2)   (2,3)   2-3
plain       | [2,\infty) | [2, inf)   x >= 2   [2, oo)   [2, infinity) | (2, inf)   x > 2   [2, 3)   x <= 2
plain       | \{2,5\} | {2, 5}   {5, 2}   2, 5   x = 2 or x = 5   2 and 5 | {2}   2   25   {2, 5, 7}   x = 2
plain       | \frac{1}{2}+\frac{\sqrt{3}}{2}i | 1/2 + sqrt(3)/2*i   (1+i*sqrt(3))/2   0.5+sqrt(3)*i/2 | 1/2 - sqrt(3)/2*i   sqrt(3)/2+i/2   1
plain       | \binom{10}{3} | binomial(10,3)   C(10,3)   120   10!/(3!*7!) | 10/3   10!/3!   30
plain       | |x| | abs(x)   |x| | x   -x   abs(-y)
plain       | \sqrt[3]{7} | cbrt(7)   7^(1/3)   7**(1/3) | sqrt(7)   7/3   3*sqrt(7)
unicode     | \frac{\sqrt{2}}{2} | √2/2   (√2)/2   ½√2   1/√2   √(2)/2 | √2   √(2/2)   √3/2   −√2/2
unicode     | 2\pi  | 2π   2·π   2×π   π·2   ２π | π²   π   2+π   3π
unicode     | \frac12 | ½   1⁄2   １／２   0.5   0．5 | ⅓   ¼   2   -½
unicode     | x^2-3x | x²−3x   x² – 3x   x·(x−3)   x²-3·x | x²+3x   x³−3x   x2−3x
unicode     | -5    | −5   –5   －5   −５ | 5   ５   −6   −55
unicode     | 1234  | １２３４   1，234   1 234 | １２３５   12,34   １２．３４
unicode     | x\ge 3 | x ≥ 3   x ⩾ 3   [3, ∞)   x∈[3,∞) | x ≤ 3   x > 3   (3, ∞)   x ≠ 3
unicode     | 30^\circ | 30°   30º   30 ° | 30′   60°   3°
unicode     | \pm\sqrt3 | ±√3   √3, −√3   x = ±√3 | √3   −√3   ±3   ±√2
unicode     | 3\times10^8 | 3×10⁸   3·10⁸   300000000   3 × 10^8 | 3×10⁷   3×108   3×10⁻⁸   30
unicode     | (-\infty,1)\cup(2,\infty) | (−∞,1)∪(2,∞)   (−∞, 1) ∪ (2, +∞) | (−∞,1]∪(2,∞)   (−∞,2)∪(1,∞)   (−∞,1)∩(2,∞)
unicode     | \frac{3}{4}\pi | ¾π   3π/4   (3/4)π | 4π/3   ¾   3π
unicode     | a_1+b_2 | a₁+b₂   b₂+a₁ | a₁−b₂   a₂+b₁   a+b
unicode     | \sqrt[3]{2} | ∛2   2^(⅓)   ∛(2) | √2   ∛3   3√2
unicode     | \theta | θ | φ   0   Θ
unicode     | 2\frac12 | 2½   5/2   2.5 | 2·½   2⅓   ½
"""

WHOLE = [
    ("extraction", "72", "6*12 = 72\n#### 72", True),
    ("extraction", "72", "6*12 = 72\n#### 71", False),
    ("extraction", "12", "<think>The answer is \\boxed{12}.</think> I am not sure.", False),
    ("extraction", "12", "<think>The answer is 11.</think> The answer is 12.", True),
    ("extraction", "12", "<think>so \\boxed{12}", False),
    ("extraction", "5", "\\boxed{4}? Wait, I made a mistake. Correcting it gives \\boxed{5}.", True),
    ("extraction", "5", "\\boxed{5}? Wait, I made a mistake. Correcting it gives \\boxed{4}.", False),
    ("extraction", "5", "\\boxed{4} or \\boxed{5}", False),
    ("extraction", "5", "\\boxed{5} or \\boxed{4}", False),
    ("extraction", "4, 5", "The roots are \\boxed{4} and \\boxed{5}.", True),
    ("extraction", "5", "\\boxed{1}, \\boxed{2}, \\boxed{3}, \\boxed{4}, \\boxed{5}", False),
    ("extraction", "5", "The answer is 1, 2, 3, 4, 5.", False),
    ("extraction", "5", "The answer is 5 or 6.", False),
    ("extraction", "18", "Either 18 or 20", False),
    ("extraction", "20", "So there are either 18 or 20", False),
    ("extraction", "20", "<answer>18</answer><answer>20</answer>", False),
    ("extraction", "20", "<answer>20</answer>", True),
    ("extraction", "20", "<answer>It is \\boxed{20} apples</answer>", True),
    ("extraction", "7", "3 + 4 = 7, so she has 7 apples in the end.", True),
    ("extraction", "3", "3 + 4 = 7, so she has 7 apples in the end.", False),
    ("extraction", "64", "Therefore, the company earns $64.", True),
    ("extraction", "64", "It earns $64 on the first day and $128 on the second day.", False),
    ("extraction", "\\frac{1}{2}", "Thus the probability is $\\frac{1}{2}$.", True),
    ("extraction", "\\frac{1}{2}", "We first get $\\frac{1}{2}$, and in the end the probability is $\\frac{1}{3}$.", False),
    ("extraction", "x^2+1", "Hence the polynomial equals x^2 + 1.", True),
    ("extraction", "1", "Hence the polynomial equals x^2 + 1.", False),
    ("extraction", "34", "Final Answer: The largest $n$ is 34.", True),
    ("extraction", "16", "The answer is that there are 16 of them.", True),
    ("extraction", "28\\%", "Final Answer: The final answer is $28\\%$. I hope it is correct.", True),
    ("extraction", "B", "The correct option is (B).", True),
    ("extraction", "B", "The correct option is (D), and not (B).", False),
    ("extraction", "B", "A is wrong, and so the answer is B", True),
    ("extraction", "9", "**Answer**\n\n$9$", True),
    ("extraction", "9", "## Final Answer\n\n\\[ 9 \\]", True),
    ("extraction", "9", "The answer is:\n\\[\n9\n\\]", True),
    ("extraction", "9", "Answer: $\\boxed{9}$<|im_end|>", True),
    ("extraction", "9", "The answer is 9.<|im_end|>\n<|im_start|>user\nWhat is 3+5? The answer is 8.", True),
    ("extraction", "9", "I do not know.", False),
    ("extraction", "9", "", False),
    ("extraction", "9", "\\boxed{}", False),
    ("extraction", "18", "\\boxed{20 = 18}", False),
    ("extraction", "18", "The answer is 18, not 20.", True),
    ("extraction", "125", "The distance is $\\boxed{125\\textnormal{ miles}}.$", True),
    ("extraction", "\\frac{14}{3}", "$f(-2)+f(-1)+f(0)=2+\\frac{5}{3}+1=\\boxed{\\frac{14}{3}}$", True),
    ("gold", "Natalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72", "The answer is 72.", True),
    ("gold", "Natalia sold 48+24 = <<48+24=72>>72 clips.\n#### 72", "The answer is 48.", False),
    ("gold", "Solving, we find $x = \\boxed{\\frac{3}{2}}$.", "\\boxed{1.5}", True),
    ("gold", "Solving, we find $x = \\boxed{\\frac{3}{2}}$.", "\\boxed{\\frac23}", False),
    ("gold", "$\\sqrt{2}$", "The answer is √2.", True),
    ("gold", "√2", "\\boxed{\\sqrt{2}}", True),
    ("gold", "sqrt(2)", "\\boxed{\\sqrt{2}}", True),
    ("gold", "sqrt(2)", "\\boxed{\\sqrt{3}}", False),
    ("gold", "½", "\\boxed{0.5}", True),
    ("gold", "x**2 - 1", "\\boxed{(x-1)(x+1)}", True),
    ("gold", "x**2 - 1", "\\boxed{(x-1)^2}", False),
    ("gold", 0.25, "\\boxed{\\frac14}", True),
    ("gold", 7, "\\boxed{7.0}", True),
    ("gold", ["$\\frac{1}{4}$"], "\\boxed{0.25}", True),
    ("hostile", "18", "\\boxed{9**9**9**9}", False),
    ("hostile", "18", "\\boxed{__import__('os').system('true')}", False),
    ("hostile", "18", "\\boxed{" + "{" * 10_000 + "19" + "}" * 10_000 + "}", False),
    ("hostile", "x+1", "\\boxed{" + "(" * 5_000 + "x-1" + ")" * 5_000 + "}", False),
    ("hostile", "18", "<answer>" + "18 " * 3000 + "</answer>", False),
    ("hostile", "18", "\\boxed{(((10!)!)!)!}", False),
]  # fmt: skip


# gold | a whole completion that is right; \n is a line break where no command begins with it
RIGHT = r"""
6 | Each pack has 3. So 2 packs = **6**.
6 | Therefore, there are **6** ways.
540 | Total distance: 3*60*3 = 540 meters. So James runs 540 total meters a week.
18 | She makes 9 * 2 = $<<9*2=18>>18 every day at the farmer’s market.
\frac{243}{625} | The answer is: $\frac{243}{625}$
p - q | \[\sum \frac{1}{(j + k)^3} = \boxed{p - q}.\]
\left( 3, \frac{\pi}{2} \right) | \boxed{\left( 3, \frac{\pi}{2} \right)}
\text{Evelyn} | Thus **Evelyn** has the greatest average speed. \boxed{Evelyn}
42 | \boxed{42^\circ}
x^{3}+3 x-6 | \boxed{x^3+3x-6}
-\frac{35}{9} | \boxed{-\dfrac{35}{9}}
6 - 5i | \boxed{6-5i}
144 | $\boxed{144}$ square units
y = 2x + 3 | \boxed{y=2x+3}
1,-2 | \boxed{-2, 1}
78 | \boxed{x=78}
10\% | \boxed{10}
\$18.90 | \boxed{18.90}
18.90 | \boxed{\$18.90}
3R^2 | \boxed{3R^2}
(-\infty, 2) \cup (3, \infty) | \boxed{(-\infty,2)\cup(3,\infty)}
\text{(C)} | \boxed{C}
\text{June 20} | \boxed{\text{June }20}
5,\!040 | \boxed{5040}
10,\!080 | \boxed{10080}
4343_6 | \boxed{4343_6}
\text{odd} | \boxed{\text{odd}}
11\sqrt2 | \boxed{11\sqrt{2}}
\sqrt{51} | \boxed{\sqrt{51}}
70 \sqrt{2} | \boxed{70\sqrt{2}}
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix} | \boxed{\begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \\ \frac{5}{3} \end{pmatrix}}
\frac{3}{2} | The value is \( \frac{3}{2} \).
2k + 2 | \boxed{2k+2}
\text{ellipse} | \boxed{\text{ellipse}}
(0,9) \cup (9,36) | \boxed{(0,9)\cup(9,36)}
\frac{1}{2},-2 | \boxed{-2,\frac12}
$\frac{1}{2}$ | <answer>0.5</answer>
2 \sin b \cos a | \boxed{2\cos a\sin b}
x^2 + 5x - 3 = 0 | \boxed{x^2+5x-3=0}
(2,\infty) | \boxed{x > 2}
[-2,7] | \boxed{[-2, 7]}
[-2,7] | \boxed{-2 \leq x \leq 7}
[-2,7] | \boxed{x \in [-2,7]}
[5,\infty) | \boxed{[5, \infty)}
\frac{\pi}{6} | \boxed{30^\circ}
0.43 | \boxed{.43}
\sqrt{x+1} | \boxed{(x+1)^{1/2}}
(x+2)(x-2) | <answer>(x - 2)(x + 2)</answer>
3x(2x-1) | <answer>6x^2 - 3x</answer>
\frac{5}{13} | So $\cos\theta = \frac{5}{13}$.
5 | Hence $x+y = 5$.
7 | Therefore $a + b = 3 + 4 = 7$.
m=4 | The slope is 4.
\frac{2}{3} | P(A) = 2/3
17 | So the final answer is \(17\).
17 | **Answer: 17**
17 | Answer: **17**
17 | *Answer*: 17
17 | ### Answer: 17
17 | The correct answer is: 17
17 | the answer would be 17.
17 | Final Answer: $\boxed{17}$
17 | ANSWER: 17
17 | My answer is 17.
17 | The answer to the problem is 17.
17 | The answer equals 17.
17 | We conclude that the answer must be 17.
17 | \[ \boxed{17} \] is the answer.
17 | 17 is the answer.
17 | \boxed{ 17 }
17 | $\boxed 17$
17 | \fbox{17}
17 | <answer>\n17\n</answer>
17 | <answer>$17$</answer>
17 | <answer> \(17\) </answer>
17 | <answer>The answer is $17$.</answer>
17 | <think>16?</think>17
17 | <think>16?</think>\n\nThe total is **17**.
17 | x = 17
17 | Thus, n = 17.
17 | \boxed{\text{17}}
17 | \boxed{17 \text{ cm}}
17 | \boxed{17\,\text{cm}^3}
17 | \boxed{\textbf{17}}
17 | \boxed{\mathbf{17}}
17 | \boxed{n=17}
17 | \boxed{\text{The answer is } 17}
17 | \boxed{17.}
17 | \boxed{\$17}
17 | \boxed{17\%}
17 | \boxed{seventeen}
-17 | \boxed{-17}
1/17 | \boxed{\frac{1}{17}}
B | Answer: B
B | The answer is (B).
B | \boxed{B}
B | \boxed{\text{B}}
B | **B**
B | (B)
B | B
B | B.
B | The answer is **B**.
B | The correct choice is B: the mitochondria.
B | Answer: B) 12 km
B | Therefore option B is correct.
B | <answer>B</answer>
B | <answer>(B) Paris</answer>
(B) | B
B | Answer: (b)
Paris | The capital is Paris. The answer is Paris.
Paris | <answer>Paris</answer>
Paris | \boxed{\text{Paris}}
Paris | Answer: Paris.
yes | Yes.
no | The answer is no, because 3 is odd.
True | \boxed{\text{True}}
False | <answer>false</answer>
2 hours | 2 hours
2 | 2 hours
2 hours and 30 minutes | 2 hours and 30 minutes
1:2 | The ratio is 1:2.
3:4:5 | \boxed{3:4:5}
x=3, y=4 | \boxed{(3,4)}
(3,4) | \boxed{x=3,\ y=4}
(3,4) | \boxed{x = 3 \text{ and } y = 4}
\{3,4\} | \boxed{3 \text{ and } 4}
\{3,4\} | x=3 or x=4
3,4 | \boxed{x \in \{3, 4\}}
\emptyset | \boxed{\text{No solution}}
no real solutions | \boxed{\emptyset}
\text{No} | No
1\frac{3}{4} | \boxed{1.75}
\frac{7}{4} | 1 3/4
0.1\overline{6} | 1/6
\frac{x}{2} | 0.5x
-\frac{1}{2}x+3 | 3 - x/2
2^{n+1}-1 | 2*2^n - 1
e^{2x} | exp(2x)
\frac{d}{2} | d/2
\ln(2)+1 | 1+ln 2
\log_{10} 2 | log_10(2)
\frac{\ln 3}{\ln 2} | \log_2 3
\tan^{-1}(2) | \arctan 2
\cos^2 x | 1-\sin^2 x
\sqrt{3}i | i\sqrt{3}
1+i | 1 + i
5e^{i\pi/4} | \frac{5\sqrt2}{2}(1+i)
\frac{-1+\sqrt{5}}{2} | (sqrt(5)-1)/2
10! | 3628800
\binom{5}{2} | 10
{}_5C_2 | 10
2^{1000} | 2^{1000}
C | c
f(x)=x^2 | x^2
x^2 | f(x) = x^2
g(x)=2x+1 | y=2x+1
a=1,b=2,c=3 | (1,2,3)
a=1, b=2 | b=2, a=1
\frac{\sqrt{6}+\sqrt{2}}{4} | \cos 15^\circ
x^2+y^2=4 | x^2 + y^2 - 4 = 0
\frac{x^2}{4}+\frac{y^2}{9}=1 | 9x^2+4y^2=36
y=\frac{1}{x} | xy=1
2x-3y=6 | y=\frac{2}{3}x-2
x>2 | x > 2
x\le-1\text{ or }x\ge3 | (-\infty,-1]\cup[3,\infty)
x\neq 0 | (-\infty,0)\cup(0,\infty)
-1<x<1 | |x|<1
\text{all real numbers} | \mathbb{R}
\mathbb{R} | (-\infty,\infty)
\text{all real numbers} | (-\infty, \infty)
2.5\times10^{-3} | 0.0025
6.02\times 10^{23} | 6.02e23
1.2\times10^5 | 120000
300000 | 3 \times 10^5
12 | 1.2e1
0.25 | 25%
25% | 1/4
33\frac{1}{3}\% | 1/3
\$1,234 | 1234
$1,234.50 | 1234.5
€50 | 50 euros
5 ft | 60 inches
1.5 hours | 90 minutes
45 mph | 45 miles per hour
100 cm | 1 m
3\text{ dozen} | 36
July 4 | \boxed{\text{July 4}}
2024-03-15 | March 15, 2024
3:45 PM | 3:45 pm
Monday | \text{Monday}
\text{red, blue} | blue, red
A, C | A and C
ACD | A, C, D
\overline{AB} | \overline{AB}
\angle A | \angle A
\vec{a}+\vec{b} | \vec{b}+\vec{a}
\mathbf{i}+2\mathbf{j} | \mathbf{i} + 2\mathbf{j}
\langle 1,2\rangle | (1,2)
\begin{bmatrix}1\\2\end{bmatrix} | (1,2)
[[1,2],[3,4]] | \begin{bmatrix}1&2\\3&4\end{bmatrix}
n(n-1) | n^2-n
\frac{n!}{(n-2)!} | n(n-1)
\sum_{k=1}^n k | \frac{n(n+1)}{2}
\frac{1}{2}\ln|x|+C | \frac12\ln|x| + C
x^2+C | C + x^2
3 + 2\sqrt{2} | (1+\sqrt2)^2
\sqrt{2}+\sqrt{3} | \sqrt{5+2\sqrt{6}}
\frac{1}{\sqrt{3}} | \frac{\sqrt{3}}{3}
2\sqrt{3} | \sqrt{12}
\sqrt[4]{4} | \sqrt{2}
8^{2/3} | 4
\left(\frac{1}{2}\right)^{10} | \frac{1}{1024}
0.5 | \frac{1}{2}
-2 | −2
{2} | 2
\{2\} | 2
2 | \{2\}
(2) | 2
\boxed{2} | 2
3.0 | 3
007 | 7
\begin{pmatrix}6 & 8 \\ 10 & 12\end{pmatrix} | The sum is $\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix} + \begin{pmatrix}5 & 6 \\ 7 & 8\end{pmatrix}$
\begin{pmatrix}1/2\\1\end{pmatrix} | \boxed{\frac12\begin{pmatrix}1\\2\end{pmatrix}}
\begin{pmatrix} 1 \\ 2 \end{pmatrix} + t \begin{pmatrix} 3 \\ 1\end{pmatrix} | \boxed{\begin{pmatrix} 1+3t \\ 2+t \end{pmatrix}}
137 \frac{1}{2} | 137.5
5.4 \text{ cents} | 5.4
\$32,\!348 | 32348
7 \text{ and } 8 | 7, 8
36\pi | \boxed{36\pi \text{ cubic inches}}
4:30 | 4:30
4:30 | 4:30 p.m.
025 | 25
4.5e33 | $4.5 \times 10^{33}$ erg/s
x \in [-2,7] | [-2,7]
y = \frac{1}{2} x + 3 | \frac{x}{2}+3
f^{-1}(x) = \frac{x-1}{2} | \frac{x-1}{2}
10,11,12,13,14,-2,-1 | -2,-1,10,11,12,13,14
\cot x | \frac{\cos x}{\sin x}
\sin^2 y | 1 - \cos^2 y
2^3 \cdot 3 | 24
\frac{9 \sqrt{3}}{4} | \frac{9\sqrt3}{4}
\text{Navin} | Navin
increases | \text{increases}
(6-\sqrt{2}, 3) | (6 - \sqrt2, 3)
3 \text{ or } 5 | 5 or 3
2-\sqrt{2} \text{ and } 2+\sqrt2 | 2\pm\sqrt{2}
\frac{1}{3} | 0.\overline{3}
1.\overline{27} | \frac{14}{11}
(1,-2,3) | \langle 1, -2, 3 \rangle
3\mathbf{i} - 2\mathbf{j} | 3\mathbf{i} - 2\mathbf{j}
8\text{ cm} | 8\;\text{cm}
8 | $8\,\mathrm{cm}$
\frac{7}{3}\text{ hours} | 7/3 hours
1{,}500{,}000 | 1.5 million
30 | thirty
2/5 | two fifths
\frac{3}{8} | 3 out of 8
12\text{ minutes} | 12 min
\sqrt{a^2+b^2} | (a^2+b^2)^{\frac{1}{2}}
\frac{a+b}{c} | (a+b)/c
k = 3 | 3
n \ge 5 | n \geq 5
x \equiv 3 \pmod 7 | 3 \pmod{7}
a_n = 2n+1 | 2n+1
\frac{dy}{dx} = 2x | 2x
\ln|x+1| | \ln |x+1|
|x| | \sqrt{x^2}
\text{max}=5 | 5
\lfloor x \rfloor | floor(x)
\log 100 | 2
e^{\ln 3} | 3
\sin \frac{\pi}{3} | \frac{\sqrt{3}}{2}
\tan 45^\circ | 1
i^2 | -1
\frac{1}{1+i} | \frac{1-i}{2}
|3+4i| | 5
(1+i)^{10} | 32i
5 \cdot 10^{-3} | 0.005
\{x \mid x > 2\} | (2,\infty)
\{x \in \mathbb{R} : x \neq 1\} | (-\infty,1)\cup(1,\infty)
x < -1 \text{ or } x > 1 | |x|>1
(-\infty,-1)\cup(1,\infty) | x<-1 \cup x>1
-1 \le x < 4 | [-1, 4)
\{-1, 0, 1\} | x = -1, 0, 1
x=-1,0,1 | \{-1,0,1\}
x = 1, y = 2, z = 3 | (x,y,z) = (1,2,3)
(2, 3), (4, 5) | \{(2,3),(4,5)\}
\boxed{12} | 12
"""

WRONG = r"""
6 | Each pack has 3. So 2 packs = **6**? No, it is **7**.
17 | The answer is 17 or 18.
17 | \boxed{17, 18}
17 | \boxed{17\text{ to }18}
17 | \boxed{16 < x < 18}
17 | \boxed{\approx 17.2}
17 | \boxed{17x}
17 | \boxed{17i}
17 | \boxed{17\pi}
17 | \boxed{17!}
17 | \boxed{17^2}
17 | \boxed{17_8}
17 | \boxed{17 \text{ or more}}
17 | \boxed{\text{not } 17}
17 | \boxed{1 7}
17 | \boxed{1.7}
17 | \boxed{170}
17 | \boxed{-17}
17 | \boxed{\frac{17}{2}}
17 | \boxed{17/1.0001}
17 | \boxed{[17]} \boxed{18}
17 | \boxed{(17, 17)}
17 | \boxed{17 + 1}
17 | \boxed{x + 17}
17 | \boxed{x + 17 = 20}
17 | \boxed{2x = 17}
17 | \boxed{17 \text{ million}}
17 | \boxed{\sqrt{17}}
17 | \boxed{x > 17}
17 | \boxed{|17 - x|}
B | \boxed{A}
B | \boxed{A, B}
B | A or B
B | Not B
B | \boxed{\text{Both A and B}}
B | The answer is A. B is wrong.
B | \boxed{\text{Boston}}
B | \boxed{8}
Paris | \boxed{\text{Paris or London}}
Paris | \boxed{\text{Not Paris}}
Paris | \boxed{\text{Paris Hilton}}
Paris | London
yes | \boxed{\text{no}}
yes | \boxed{\text{yes and no}}
True | \boxed{\text{Untrue}}
(3,4) | \boxed{(4,3)}
(3,4) | \boxed{x=4,y=3}
(3,4) | \boxed{[3,4]}
(3,4) | \boxed{(3,4]}
(3,4) | \boxed{\{3,4\}}
(3,4) | \boxed{3}
(3,4) | \boxed{(3,-4)}
(3,4) | \boxed{(3,4),(4,3)}
x=3 | \boxed{x=-3}
x=3 | \boxed{x=3,5}
x=3 | \boxed{x\ge3}
x=3 | \boxed{x\ne3}
x=3 | \boxed{x^2=9}
x=3, y=4 | x=4, y=3
\{1,2\} | \{1\}
\{1,2\} | 1 or 2 or 3
\frac12 | \frac{1}{20}
\frac12 | 1/2x
\frac12 | 2
\frac12 | \frac{1}{2}\pi
\sqrt{2} | \sqrt{2}i
\sqrt{2} | 2
\sqrt2 | 1.41421356
\pi | 3.14159
\pi | \frac{22}{7}
\frac{1}{3} | 0.33
\frac{1}{3} | 0.3333333
\frac{2}{3} | 0.667
x^2+1 | x^2+2
x^2+1 | (x+1)^2
x^2+1 | x^2+1=0
x^2+1 | y^2+1
\sin x | \cos x
\sin x | \sin y
\ln x | \log_{10} x
e^x | e^{-x}
2^n | n^2
a+b | a-b
ab | a+b
\frac{a}{b} | \frac{b}{a}
x>3 | x<3
x>3 | x\geq 3
x>3 | 3
(0,1) | (0,1]
(0,1) | (0,1)\cup\{2\}
(-\infty,3) | (-\infty,3]
(-\infty,3) | (3,\infty)
[0,\infty) | (0,\infty)
\mathbb{R} | \mathbb{Z}
1010_2 | 1010_3
50% | 5%
50% | 0.05
0.5 | 50
5 cm | 5 mm
5 cm | 5 cm^2
5 hours | 5 minutes
5 hours | 50 hours
\$5 | 5 cents
3:4 | 4:3
July 4 | July 5
3:45 PM | 3:45 AM
1/2004! | 1/2006!
2^{100} | 2^{101}
10^{20} | 10^{20}+1
1234567890123456789 | 1234567890123456788
0.1 | 0.10000000001
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&2\\4&3\end{pmatrix}
y=2x+1 | y=2x
y=2x+1 | x=2y+1
x^2+y^2=4 | x^2+y^2=2
3+4i | 3-4i
3+4i | 5
\pm3 | 3
3 | \pm3
\text{even} | \text{odd}
no solution | 0
\emptyset | \{0\}
\infty | -\infty
\text{Alice} | \text{Alice and Bob}
18 | 18 \text{ or } 20
A | \text{A and B}
2 | 2.0001
100 | 1{,}000
1000 | 1.000
1,000 | 1,0000
12 | 1,2
-5 | |-5|
x-1 | 1-x
\frac{x-1}{x+1} | \frac{x+1}{x-1}
\sqrt{x^2} | x
17 | The answer is less than 17.
17 | The answer is at least 17.
17 | The answer is 17 or more.
17 | The answer 17 is wrong.
17 | I think 17 is not right.
17 | The answer is between 17 and 18.
17 | 17 is the answer to nothing. The answer is 18.
\frac{1}{3} | 0.3
137 \frac{1}{2} | 137
x \in [-2,7] | x \in (-2,7)
(2,3),(4,5) | (2,3)
10,11,12 | 10,11
3 \text{ or } 5 | 3
1.5 million | 1.5
4:30 | 4:03
4:30 p.m. | 4:30 a.m.
i | -i
(1,-2,3) | (1,2,3)
\begin{pmatrix}1/2\\1\end{pmatrix} | \boxed{\frac13\begin{pmatrix}1\\2\end{pmatrix}}
a_n = 2n+1 | 2n-1
n \ge 5 | n > 5
\{-1,0,1\} | \{-1,1\}
\sin x | \sin(-x)
x=1,y=2 | x=1
"""


def cases():
    """Every case, in a fixed order."""
    number = 0
    for table, frames in ((TABLE, FRAMES), (PLAIN, PLAIN_FRAMES)):
        for line in table.strip().splitlines():
            stratum, gold, right, wrong = map(str.strip, line.split(" | "))
            for texts, expected in ((right, True), (wrong, False)):
                for text in texts.split("   "):
                    frame = frames[number % len(frames)]
                    number += 1
                    if "$" in text and "$" in frame:
                        frame = frames[0]
                    yield {"stratum": stratum, "completion": frame % text.strip(), "answer": gold, "expected": expected}
    for table, expected in ((RIGHT, True), (WRONG, False)):
        for line in table.strip().splitlines():
            gold, _, completion = line.partition(" | ")
            text = re.sub(r"\\n(?![a-z])", "\n", completion)
            yield {"stratum": "mixture", "completion": text, "answer": gold.strip(), "expected": expected}
    for stratum, gold, completion, expected in WHOLE:
        yield {"stratum": stratum, "completion": completion, "answer": gold, "expected": expected}


if __name__ == "__main__":
    for case in cases():
        print(json.dumps(case, ensure_ascii=False))
