"""Scores the shipped file on the held-out sets: the numbers in docs/models.md.

Prints, for each set, accuracy, macro-F1, precision and recall per label and the confusion matrix (rows: true label), with
the shipped 8-bit weights widened to single precision; and on how many texts the label differs where activations are rounded
to 8 bits as well, as the runtime's fast mode does.
"""

import argparse
import json
from pathlib import Path

import torch

import quantisation
import shipped
from labelled_texts import LABELS, held_out_texts
from model import probabilities
from scores import summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sentiment"))
    parser.add_argument("--file", type=Path, default=Path("crates/models/weights/headline-sentiment.safetensors"))
    parser.add_argument("--text", action="append", help="score this text instead of the held-out sets (may be repeated)")
    options = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = shipped.load(options.file)
    if options.text:
        for text, row in zip(options.text, probabilities(model, tokenizer, options.text).tolist(), strict=True):
            print(json.dumps({"text": text, **{label: round(p, 4) for label, p in zip(LABELS, row, strict=True)}}))
        return
    for name, examples in held_out_texts(options.data).items():
        texts, truth = [example.text for example in examples], [example.label for example in examples]
        exact = probabilities(model, tokenizer, texts)
        handles = quantisation.round_activations(model)
        rounded = probabilities(model, tokenizer, texts)
        for handle in handles:
            handle.remove()
        differ = int((exact.argmax(-1) != rounded.argmax(-1)).sum())
        int8 = summary(truth, rounded)
        report = {
            "set": name,
            **summary(truth, exact),
            "int8_activations": {
                "accuracy": int8["accuracy"],
                "macro_f1": int8["macro_f1"],
                "labels_that_differ": differ,
                "agreement": round(1 - differ / len(truth), 5),
                "largest_difference_of_a_score": round(float((exact - rounded).abs().max()), 4),
            },
        }
        print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
