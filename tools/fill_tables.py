"""Copy measured tables from benchmarks/results into README.md and the design record.

With --check, fail where a page differs from the results instead of writing it.
"""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

RESULTS = Path("benchmarks/results")


# Page, table's name there, file it is printed in, and how its heading begins; headings that
# several tables share bring them all.
PRINTED = [
    ("docs/design/evidence.md", "evidence", "ablation.txt", "Evidence"),
    ("docs/design/evidence.md", "rounds", "evidence.txt", "Rounds and hyperprior"),
    ("docs/design/members.md", "members", "members.txt", "Members"),
    ("docs/design/training.md", "training", "ablation.txt", "Training"),
    ("docs/design/training.md", "fits", "ablation.txt", "Fits"),
    ("docs/design/training.md", "gap", "ablation.txt", "Gap"),
    ("docs/design/training.md", "fit-aims", "fit.txt", "Aims"),
    ("docs/design/training.md", "phases", "phases.txt", "Phases"),
    ("docs/design/subspace.md", "products", "products.txt", "Products"),
    ("docs/design/subspace.md", "passes", "products.txt", "Passes"),
    ("docs/design/subspace.md", "hessians", "products.txt", "Hessian"),
    ("docs/design/subspace.md", "solves", "products.txt", "Solves"),
    ("docs/design/classifier.md", "choices", "classifier-choices.txt", "Choices"),
    ("docs/design/classifier.md", "agreement", "classifier-agreement.txt", "Defaults"),
    ("docs/design/heteroscedastic.md", "heteroscedastic", "heteroscedastic.txt", "Heteroscedastic"),
    ("docs/user_guide.md", "quality", "classifier-quality.txt", "Quality"),
    ("docs/user_guide.md", "novelty", "classifier-novelty.txt", "Novelty"),
    ("docs/user_guide.md", "classifier-speed", "classifier-speed.txt", "Speed"),
    ("docs/user_guide.md", "conformal", "conformal.txt", "Conformal"),
    ("docs/user_guide.md", "functional", "functional.txt", "Functional"),
    ("docs/user_guide.md", "leave-one-out", "leave-one-out.txt", "Every training row"),
    ("docs/user_guide.md", "influence", "leave-one-out.txt", "Influence"),
    ("docs/user_guide.md", "optimism", "leave-one-out.txt", "What leave-one-out is not"),
    ("docs/user_guide.md", "flipped", "leave-one-out.txt", "Flipped labels"),
    ("docs/user_guide.md", "profile", "profile.txt", "Profile"),
    ("docs/design/quality.md", "aims", "uci.txt", "Aims"),
    ("docs/choosing.md", "uci", "uci.txt", "UCI"),
    ("docs/choosing.md", "uci-details", "uci.txt", "Details"),
    ("docs/choosing.md", "repeated", "uci.txt", "Test rows"),
    ("docs/choosing.md", "tables-summary", "tables.txt", "Summary, reporting half"),
    ("README.md", "fit-rows", "fit.txt", "Rows"),
    ("docs/cost.md", "fit-rows", "fit.txt", "Rows"),
    ("docs/cost.md", "fits", "fit.txt", "Fits"),
    ("docs/cost.md", "teacher", "fit.txt", "Teacher"),
    ("docs/cost.md", "speed-small", "speed-small.txt", "Speed"),
    ("docs/cost.md", "speed-large", "speed-large.txt", "Speed"),
    ("docs/cost.md", "threads", "threads.txt", "Threads"),
    ("docs/cost.md", "cluster", "cluster.txt", "Cluster"),
    ("docs/cost.md", "scale-rows", "scale-rows.txt", "Scale"),
    ("docs/cost.md", "growth", "growth.txt", "Growth"),
    ("docs/paper.md", "paper-agreement", "paper-agreement.txt", "Agreement"),
    ("docs/paper.md", "paper-plateau", "paper-plateau.txt", "Plateau"),
    ("docs/paper.md", "paper-coverage", "paper-coverage.txt", "Coverage"),
    ("docs/design/reliable_fits.md", "few", "reliable-few.txt", "Few rows"),
    ("docs/design/reliable_fits.md", "tables", "reliable-tables.txt", "Real tables"),
    ("docs/design/reliable_fits.md", "inner", "reliable-inner.txt", "Training rows"),
    ("docs/design/reliable_fits.md", "tails", "tails.txt", "Tails"),
    ("docs/user_guide.md", "grid-search", "grid-search.txt", "Grid search"),
]


def main() -> int:
    stale = []
    tables = [
        (page, name, printed(file, title))
        for page, name, file, title in PRINTED
        if (RESULTS / file).exists()
    ]
    if (RESULTS / "equality.csv").exists():
        tables.append(("docs/which_variance.md", "equality", equality_table()))
    if (RESULTS / "uci.csv").exists():
        tables.append(("README.md", "uci", uci_table()))
    for page, name, table in tables:
        path = Path(page)
        text = path.read_text(encoding="utf-8")
        pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
        filled = re.sub(pattern, lambda m, t=table: m[1] + t + m[2], text, flags=re.DOTALL)
        if filled != text:
            stale.append(page)
            if "--check" not in sys.argv:
                path.write_text(filled, encoding="utf-8")
    if stale and "--check" in sys.argv:
        print(f"Not as benchmarks/results has it: {', '.join(stale)}. Run tools/fill_tables.py.")
        return 1
    return 0


def printed(file: str, title: str) -> str:
    """All tables of a benchmark's output whose headings begin alike, as one code block."""
    tables = (RESULTS / file).read_text(encoding="utf-8").split("\n\n")
    chosen = [t.strip() for t in tables if t.startswith(title)]
    if not chosen:
        raise SystemExit(f"No table in {RESULTS / file} has a heading that begins with {title!r}.")
    return "```\n" + "\n\n".join(chosen) + "\n```\n"


def uci_table() -> str:
    """Mean log-likelihood of the standard splits, the best of each data set, as shown, in bold."""
    with (RESULTS / "uci.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["family"] == "standard"]
    data = list(dict.fromkeys(row["data"] for row in rows))
    values: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        values.setdefault((row["method"], row["data"]), []).append(float(row["ll"]))
    means = {key: sum(found) / len(found) for key, found in values.items()}
    best = {name: max(mean for key, mean in means.items() if key[1] == name) for name in data}

    def cell(method: str, name: str) -> str:
        mean = means.get((method, name))
        if mean is None:
            return ""
        text = f"{mean:.2f}".replace("-", "−")
        return f"**{text}**" if round(mean, 2) == round(best[name], 2) else text

    lines = [f"| | {' | '.join(data)} |", "|---|" + "---:|" * len(data)]
    lines += [
        f"| {method} | {' | '.join(cell(method, name) for name in data)} |"
        for method in dict.fromkeys(row["method"] for row in rows)
    ]
    return "\n".join(lines) + "\n"


def equality_table() -> str:
    """Summary of the equality benchmark: worst errors, and whether bounds and checks held."""
    with (RESULTS / "equality.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [
        "| epistemic std compared | with | worst relative error | check |",
        "|---|---|---|---|",
    ]

    def add(what: str, reference: str, worst: float, check: str) -> None:
        lines.append(f"| {what} | {reference} | {worst:.0e} | {check} |")

    def percent(value: str) -> str:
        return f"{100 * float(value):.0f} %"

    for row in rows:
        case = row["case"]
        if row["table"] == "one-dimensional":
            check = f"{percent(row['network_converged'])} of rows converged"
            add(f"network, {case}, `std_rtol=1e-5`", "dense Hessian",
                float(row["network_worst"]), check)  # fmt: skip
        elif row["table"] == "real data":
            check = f"bound holds for {percent(row['bound_holds_0.01'])} of rows"
            add(f"linearized, {case}, defaults", "dense GGN", float(row["worst_0.01"]), check)
        elif row["table"] == "network on real data":
            check = f"{percent(row['converged'])} of rows converged"
            add(f"network, {case} of y's SD", "dense Hessian",
                float(row["to_hessian_worst"]), check)  # fmt: skip
        elif row["table"] == "linear":
            add("linear network", "BayesianRidge", float(row["std"]), "closed form")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
