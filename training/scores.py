"""Accuracy, macro-F1 and what goes with them."""

import torch

from labelled_texts import LABELS


def confusion(truth: list[int], answers: torch.Tensor) -> list[list[int]]:
    """Counts: a row for each true label, a column for each answer."""
    table = [[0] * len(LABELS) for _ in LABELS]
    for label, answer in zip(truth, answers.argmax(dim=-1).tolist(), strict=True):
        table[label][answer] += 1
    return table


def summary(truth: list[int], answers: torch.Tensor) -> dict:
    """n, accuracy, macro-F1, and per label precision, recall and F1."""
    table = confusion(truth, answers)
    per_label = {}
    for index, label in enumerate(LABELS):
        hits, said, were = table[index][index], sum(row[index] for row in table), sum(table[index])
        precision, recall = hits / max(said, 1), hits / max(were, 1)
        f1 = 2 * precision * recall / max(precision + recall, 1e-12)
        per_label[label] = {"precision": round(precision, 4), "recall": round(recall, 4), "f1": round(f1, 4)}
    return {
        "n": len(truth),
        "accuracy": round(sum(table[index][index] for index in range(len(LABELS))) / len(truth), 4),
        "macro_f1": round(sum(entry["f1"] for entry in per_label.values()) / len(LABELS), 4),
        "per_label": per_label,
        "confusion": table,
    }
