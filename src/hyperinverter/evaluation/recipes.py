"""Several trainings of one recipe: photos tell about a trained network, seeds about the recipe."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from hyperinverter import measures
from hyperinverter.evaluation import statistics
from hyperinverter.evaluation.tables import Measured, common

Recipes = Mapping[str, Mapping[int, str]]  # name of a recipe -> seed -> label of the model


def recipes_of(
    record: Mapping[str, Mapping[str, object]], labels: Mapping[str, object]
) -> dict[str, dict[int, str]]:
    """Recipes that were trained with several seeds, by the name of their first model.

    Args:
        record: Label -> what is known of a model; ``recipe`` and ``seed`` where its run says so.
        labels: Models that are in the table.
    """
    found: dict[str, dict[int, str]] = {}
    for label, about in record.items():
        if label in labels and about.get("recipe") is not None and isinstance(about.get("seed"), int):
            found.setdefault(str(about["recipe"]), {}).setdefault(int(str(about["seed"])), label)
    return {next(iter(seeds.values())): seeds for seeds in found.values() if len(seeds) > 1}


def seeds_markdown(models: Mapping[str, Measured], recipes: Recipes) -> str:
    """A table of recipes, mean ± half of the interval over seeds and photos, and a sentence per pair of recipes."""
    members = {label: models[label] for seeds in recipes.values() for label in seeds.values()}
    names = common(members)
    columns = [c for c in next(iter(members.values())).numbers if c != "seconds"]
    lines = ["| recipe | seeds | " + " | ".join(columns) + " |", "|" + " --- |" * (len(columns) + 2)]
    for recipe, seeds in recipes.items():
        cells = [recipe, str(len(seeds))]
        for column in columns:
            interval = statistics.two_level([models[label].on(names)[column] for label in seeds.values()])
            half = (interval.high - interval.low) / 2
            cells.append(f"{measures.shown(interval.value, column)} ± {half:.2g}")
        lines.append("| " + " | ".join(cells) + " |")
    said = [_sentence(models, recipes, a, b, columns) for a, b in itertools.combinations(recipes, 2)]
    return "\n".join([*lines, "", *(f"- {sentence}" for sentence in said if sentence)]) + "\n"


def _sentence(models: Mapping[str, Measured], recipes: Recipes, a: str, b: str, columns: list[str]) -> str:
    """What may be said of two recipes, from the seeds that both have; empty for fewer than two."""
    seeds = sorted(recipes[a].keys() & recipes[b].keys())
    if len(seeds) < 2:
        return ""
    pairs = [(models[recipes[a][seed]], models[recipes[b][seed]]) for seed in seeds]
    names = common({f"{i}{j}": model for i, pair in enumerate(pairs) for j, model in enumerate(pair)})
    better, worse, unclear = [], [], []
    for column in columns:
        found = statistics.two_level([one.on(names)[column] - two.on(names)[column] for one, two in pairs])
        size = f"{column} ({found.value:+.3g} [{found.low:+.3g}, {found.high:+.3g}])"
        if found.low <= 0 <= found.high or found.value != found.value:
            unclear.append(column)
        elif (found.value > 0) == measures.higher_is_better(column):
            better.append(size)
        else:
            worse.append(size)
    parts = [
        f"better in {', '.join(better)}" if better else "",
        f"worse in {', '.join(worse)}" if worse else "",
    ]
    said = ", ".join(part for part in parts if part) or "not to be told apart"
    rest = f"; nothing can be said about {', '.join(unclear)}" if unclear and (better or worse) else ""
    return f"Over {len(seeds)} seeds, the recipe of **{a}** against that of {b}: {said}{rest}."
