"""Pairs of a right answer and a given one: equal ones, and ones that a person would not accept.

A list as the right answer stands for several final answers; a third entry is the absolute error
that is allowed.
"""

EQUAL = [
    # plain numbers
    *[
        ("18", said)
        for said in ("18.", "$18", r"\$18", "18.00", r"\text{18}", r"18\text{ cm}", "x=18")
    ],
    *[
        ("18", said)
        for said in ("6*3 = 18", r"18 \text{ dollars}", "+18", "$18$", r"\(18\)", r"18\,")
    ],
    *[("1000", said) for said in ("1,000", "1{,}000", r"1,\!000", "10^3", "1e3", "(1,000)")],
    *[("-5", said) for said in ("\u22125", "- 5", "{-5}", r"\frac{-10}{2}", r"-\frac{10}{2}")],
    *[
        ("3/4", said)
        for said in ("0.75", ".75", r"\frac34", r"\dfrac{3}{4}", r"\tfrac{6}{8}", r"75\%")
    ],
    *[(r"\frac{1}{2}", said) for said in (r"\frac12", r"\frac 12", "1/2", "0.5", "2^{-1}", "½")],
    (r"1\frac{4}{5}", "9/5"),
    (r"2\frac12", r"\frac{5}{2}"),
    (r"50\%", "50"),
    ("50", r"50\%"),
    (r"90^\circ", "90"),
    ("90", "90°"),
    (r"15\mbox{ cm}^2", "15"),
    (r"15\text{ cm}^2", r"15 \text{ square centimeters}"),
    (r"\$18.90", "18.90"),
    (r"5.4 \text{ cents}", "5.4"),
    ("52_8", "52_{8}"),
    ("52_8", "52"),
    # roots, powers, constants
    (r"\sqrt{2}", r"\sqrt2"),
    (r"\sqrt{2}", "√2"),
    (r"\sqrt{2}", "sqrt(2)"),
    (r"\sqrt{2}", r"2^{1/2}"),
    (r"\sqrt{2}", r"\sqrt{2} \approx 1.414"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
    (r"11\sqrt2", r"11 \cdot \sqrt{2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    (r"\sqrt[3]{16}", r"2\sqrt[3]{2}"),
    (r"5\pi", r"\pi \cdot 5"),
    (r"5\pi", "5π"),
    (r"5\pi", r"5\pi \text{ cm}^2"),
    (r"\frac{3\pi}{2}", r"1.5\pi"),
    (r"2^{10}", "1024"),
    ("1024", "2^10"),
    ("720", "6!"),
    ("10", r"\binom{5}{2}"),
    (r"2^{2016}-1", r"2^{2016} - 1"),
    (r"4^{1008}", r"2^{2016}"),
    (r"\log_2 8", "3"),
    (r"\frac{1}{2}", r"\sin 30^\circ"),
    (r"\frac{1}{2}", r"\cos \frac{\pi}{3}"),
    (r"e^{2}", r"e \cdot e"),
    (r"6 - 5i", "-5i + 6"),
    ("3+4i", "(2+i)^2"),
    # expressions with variables
    ("2x+3", "3 + 2x"),
    ("(x+1)^2", "x^2+2x+1"),
    ("x^2-1", "(x-1)(x+1)"),
    (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
    (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k"),
    (r"\frac{1}{x}", "x^{-1}"),
    ("p - q", "-q+p"),
    ("2^{n+1}", r"2 \cdot 2^n"),
    (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}"),
    (r"\sin^2 x", r"1 - \cos^2 x"),
    (r"x_1 + x_2", "x_{2} + x_{1}"),
    # equations and inequalities
    ("x=5", "5"),
    ("5", "x = 5"),
    ("x=5", "x = 5"),
    ("y = 2x + 3", "2x + 3"),
    ("y = 2x + 3", "2x - y + 3 = 0"),
    ("x^2+y^2=4", "y^2 + x^2 = 4"),
    ("2x+4y=6", "x + 2y = 3"),
    ("f(x)=x^2", "x^2"),
    ("x>5", "5 < x"),
    ("x>5", r"(5, \infty)"),
    (r"(1,3]", r"1 < x \leq 3"),
    (r"x \ge 2", "x >= 2"),
    (r"[2,\infty)", r"x \geq 2"),
    ("2x+y<4", "4 > y+2x"),
    # several values
    ("1,-2", "-2, 1"),
    ("1,-2", r"-2 \text{ and } 1"),
    ("1,-2", r"\{1,-2\}"),
    ("1,-2", "x=1 or x=-2"),
    (r"1 \pm \sqrt{19}", r"1-\sqrt{19}, 1+\sqrt{19}"),
    (r"\pm 3", "3, -3"),
    (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt{5}, 1-\sqrt{5}"),
    (["3", "5"], "5, 3"),
    ([r"$\frac{1}{2}$", "$2$"], r"2 \text{ and } 0.5"),
    (["$(1,8,19), (2,7,13)$"], "(2,7,13), (1, 8, 19)"),
    (["120", "180"], "120,180"),
    ("3, 5, 7", "3,5,7"),
    # tuples, intervals, matrices
    ("(1,2)", r"\left(1, 2\right)"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, 0.5\pi)"),
    ("(100,200)", "(100, 200)"),
    ("[1,2)", r"\left[1,2\right)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3, \infty) \cup (-\infty, 2)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
    (r"\begin{pmatrix} 1/3 & 2 \end{pmatrix}", r"\begin{pmatrix}\frac13&2\end{pmatrix}"),
    # texts
    (r"\text{Evelyn}", "Evelyn"),
    (r"\text{even}", r"\textbf{even}"),
    (r"\text{(C)}", "C"),
    (r"\text{(C)}", r"\text{C}"),
    (r"\text{no solution}", r"\text{No solutions.}"),
    (r"\text{June 20}", "June 20"),
    # tolerances
    ("3.142", "3.1416", 1e-3),
    (r"\pi", "3.14159", 1e-4),
    ("15.7", r"5\pi", 0.05),
]

UNEQUAL = [
    # plain numbers
    *[
        ("2", said)
        for said in (r"\sqrt{2}", "sqrt(2)", "2x", "2 or 3", "2, 3", "x^2", "12", "-2", "2h")
    ],
    *[
        ("2", said)
        for said in ("2 m + 1", "1,2", "(1,2)", r"\frac{1}{2}", "2i", "2!!", "x > 2", "2 ^ 2")
    ],
    *[
        ("9", said)
        for said in ("9**9**9", "9^{9^{9}}", "9!", "99", "0.9", r"\log 9", "9^9", "(9!)!")
    ],
    *[
        ("18", said)
        for said in ("1.8", r"180\%", "18:30", "18-", "x^2=18", "2x=18", "eighteen", "")
    ],
    ("18", "18e1"),
    (r"5\text{ cm}", r"5\text{ m}"),
    (r"5\text{ cm}^2", r"5\text{ cm}^3"),
    ("1000", "1,0"),
    ("1,000", "(1,0)"),
    ("1,000", "1, 0"),
    ("12", "1,2"),
    ("0.333", "1/3"),
    ("1/3", "0.333333"),
    ("1/3", "0.33333333333333333"),
    ("0.5", r"0.5\%"),
    ("0.0000001", "0.0000002"),
    (r"10^{-20}", r"2\cdot 10^{-20}"),
    (r"10^{2016}-1", r"10^{2016}"),
    (r"2^{2016}-1", r"2^{2016}+1"),
    ("52_8", "52_9"),
    ("5!", "5"),
    # approximations of what has an exact value
    (r"\sqrt{2}", "1.414"),
    (r"\sqrt{2}", "1.41421356"),
    (r"\sqrt{2}", "2"),
    (r"5\pi", r"5 \cdot 3.14159"),
    (r"5\pi", "15.7"),
    ("15.7", r"5\pi"),
    (r"\pi", r"\frac{22}{7}"),
    ("e", "2.71828"),
    # expressions
    (r"\frac12", r"\frac{1}{3}"),
    ("2x+3", "2x-3"),
    ("2x+3", "2y+3"),
    ("3h", "3"),
    ("3", "3t"),
    ("R^2", "r^2"),
    ("x", r"\sqrt{x^2}"),
    ("x", "|x|"),
    ("0", r"\sin(\pi n)"),
    ("x'", "x"),
    ("6-5i", "6+5i"),
    ("(x+1)^2", "x^2+1"),
    (r"\frac{1}{x+1}", r"\frac{1}{x} + 1"),
    ("2^n", "n^2"),
    # equations and inequalities
    ("x=5", "y=5"),
    ("x=5", "x=6"),
    ("x=5", "x>5"),
    ("x>5", r"x \geq 5"),
    ("x>5", "x<5"),
    ("x>5", "y>5"),
    ("x^2+1=0", "x^2+2=0"),
    ("y=2x+3", "y=2x+4"),
    ("y=2x+3", "x=2y+3"),
    ("x<1", "-x<-1"),
    (r"x \neq 3", "x=3"),
    ("5", "2+2=5"),
    # several values
    ("1,-2", "1"),
    ("1", "1,-2"),
    ("1,-2", "1,2"),
    ("1,-2", "1,-2,3"),
    ("1,2", "(1,2)"),
    (r"\pm 3", "3"),
    ("1,1", "1,2"),
    (["3", "5"], "3"),
    (["3", "5"], "3, 6"),
    (["3", "5"], "3, 5, 7"),
    (["3", "5"], "35"),
    # tuples, intervals, matrices
    ("(1,2)", "(2,1)"),
    ("(1,2)", "1,2"),
    ("(1,2)", "[1,2]"),
    ("(1,2)", "(1,2]"),
    ("[1,2]", "(1,2)"),
    ("(1,2)", "(1,2,3)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2)"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2]\cup(3,\infty)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1,2)"),
    # texts
    (r"\text{Monday}", r"\text{Tuesday}"),
    (r"\text{even}", r"\text{odd}"),
    (r"\text{(C)}", r"\text{(D)}"),
    (r"\text{no}", r"\text{on}"),
    ("no", "on"),
    ("0", r"\text{no solution}"),
    (r"\text{no solution}", "0"),
    ("7", r"\text{seven days}"),
    # tolerances
    ("3.142", "3.15", 1e-3),
    ("15.7", r"5.1\pi", 0.05),
]
