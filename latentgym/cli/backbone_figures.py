"""A backbone's figures, printed with what they mean."""

from __future__ import annotations

from gan_backbones.evaluation import NEIGHBOURS


def print_figures(figures: dict) -> None:
    """Print each figure with what it means and which way is better."""
    quantiles = figures["realism_quantiles"]
    discriminator = figures["discriminator"]
    _print_figure("images", figures["images"], "held-out real images, and as many generated ones")
    if "label_accuracy" in figures:
        asked = "generated images that show what was asked for (higher is better)"
        _print_figure("label accuracy", _percent(figures["label_accuracy"]), asked)
    if "judge_accuracy" in figures:
        for role in ("classifier", "judge"):
            accuracy = _percent(figures[f"{role}_accuracy"])
            _print_figure(f"{role} accuracy", accuracy, "on real images (higher is better)")
        agree = "classifier and judge agree on generated images (higher is better)"
        _print_figure("agreement", _percent(figures["agreement"]), agree)
        lowest = figures["lowest_share"]
        share = f"share of {lowest['variant']} in generated images, divided by that in the data"
        _print_figure("rarest variant", f"{lowest['ratio']:.2f}", f"{share} (1 is best)")
        distance = "from real images, in the judge's features; not FID (lower is better)"
        _print_figure("Frechet distance", figures["fd_classifier"], distance)
        distance = "the same, in the form of KID (lower is better, 0 is best)"
        _print_figure("kernel distance", figures["kid_classifier"], distance)
        neighbours = figures.get("neighbours", NEIGHBOURS)
        how = f"by {neighbours} nearest neighbours"
        if neighbours < NEIGHBOURS:
            how += f", too few images for {NEIGHBOURS}"
        real = f"generated images that look real, {how} (higher is better)"
        _print_figure("precision", _percent(figures["precision"]), real)
        covered = "real images that could have been generated (higher is better)"
        _print_figure("recall", _percent(figures["recall"]), covered)
    told = "real and generated images told apart (50 % if they look alike)"
    _print_figure("discriminator accuracy", _percent(discriminator["accuracy"]), told)
    taken = "real images taken for real"
    _print_figure("  real", _percent(discriminator["true_positive_rate"]), taken)
    taken = "generated images taken for generated"
    _print_figure("  generated", _percent(discriminator["true_negative_rate"]), taken)
    print(f"realism (0 to 1) at the quantiles {quantiles['at']}")
    for kind in ("real", "generated"):
        print(f"  {kind:9s} {quantiles[kind]}")
    _print_accuracies(figures)


def _print_figure(label: str, value: object, meaning: str) -> None:
    print(f"{label:24s} {value!s:>10s}   {meaning}")


def _print_accuracies(figures: dict) -> None:
    """Print the accuracy of classifier and judge for each attribute, and warn about weak ones."""
    if "chance" not in figures:  # no attributes, or a file made before they were recorded
        return
    weak = figures["weak_attributes"]
    print(f"{'accuracy by attribute':24s} {'classifier':>10s} {'judge':>10s} {'chance':>10s}")
    for name, chance in figures["chance"].items():
        found = [figures[f"{role}_accuracies"][name] for role in ("classifier", "judge")]
        cells = "".join(f" {_percent(value):>10s}" for value in (*found, chance))
        print(f"{name:24s}{cells}{'   weak' if any(name in weak[role] for role in weak) else ''}")
    effects = {
        "classifier": "rewards for these attributes mean little",
        "judge": "success and kept mean little for these attributes",
    }
    for role, effect in effects.items():
        if weak[role]:
            print(
                f"warning: the {role} hardly recognizes {', '.join(weak[role])} (less than half of "
                f"the way from chance to 100 %): {effect}; add labelled images"
            )


def print_warnings(warnings: list[dict]) -> None:
    """Print each warning of a training, when it came, and what may help."""
    for entry in warnings:
        when = f"iteration {entry['first']}"
        if entry["count"] > 1:
            when = f"iterations {entry['first']} to {entry['last']}"
        often = f"{entry['count']} of {entry['checks']} checks ({when})"
        print(f"warning: {entry['warning']} at {often}; what may help: {entry['advice']}")


def _percent(share: float) -> str:
    return f"{share:.2%}"
