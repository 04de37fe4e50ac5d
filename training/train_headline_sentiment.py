"""Fine-tunes MiniLM-L6 into the headline classifier, and writes `model.pt` and `tokenizer.json` to a folder.

The same input, settings and number of threads give the same weights on one machine. With `--holdout 0.1` a tenth of the
training texts is set aside and scored after each epoch, for comparing settings. The weights that ship are made
without it, from all training texts; `export.py` writes them in the shipped form.

The recipe: AdamW with warm-up and linear decay, a learning rate that falls towards the lower layers, label smoothing, an
average of the weights over the last steps, and in the last part of the training the 8-bit rounding of activations that
the runtime will apply (`quantisation.py`). Of the table of words only the rows in the batch move.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch.nn import functional

import quantisation
import vocabulary
from labelled_texts import Example, split, training_texts, with_made_up_url
from model import base_folder, batch_of, from_base, probabilities
from scores import summary


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sentiment"), help="folder of the CSV files")
    parser.add_argument("--out", type=Path, default=Path("training/work/model"), help="folder to write to")
    parser.add_argument("--holdout", type=float, default=0.0, help="share of the training texts set aside for choosing settings")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1.5e-4, help="learning rate of the head and the top layer")
    parser.add_argument("--layer-decay", type=float, default=0.95, help="factor of the learning rate per layer downwards")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--warm-up", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--smoothing", type=float, default=0.05, help="label smoothing")
    parser.add_argument("--rounded", type=float, default=0.4, help="last share of the steps, with activations as 8-bit numbers")
    parser.add_argument("--average", type=float, default=0.9, help="decay per ten steps of the averaged weights; 0: no average")
    parser.add_argument("--fixed-words", action="store_true", help="leave the table of words as it is: faster")
    parser.add_argument("--urls", type=float, default=0.3, help="share of the tweets that get a made-up link")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def batches(lengths: list[int], size: int, dice: random.Random) -> list[list[int]]:
    """Random batches of texts of like length: shuffled, sorted by length within pools of 40 batches, shuffled again."""
    order = list(range(len(lengths)))
    dice.shuffle(order)
    result = []
    for start in range(0, len(order), size * 40):
        pool = sorted(order[start : start + size * 40], key=lambda index: lengths[index])
        result += [pool[first : first + size] for first in range(0, len(pool), size)]
    dice.shuffle(result)
    return result


def parameter_groups(model: torch.nn.Module, options: argparse.Namespace) -> list[dict]:
    """All parameters but the table of words, with their learning rate (by depth) and weight decay (matrices only)."""
    layers = model.config.num_hidden_layers
    groups = []
    for name, parameter in model.named_parameters():
        if name.endswith("word_embeddings.weight"):
            continue
        depth = 0 if ".embeddings." in name else layers + 1
        if ".encoder.layer." in name:
            depth = int(name.split(".encoder.layer.")[1].split(".")[0]) + 1
        decay = options.weight_decay if parameter.dim() > 1 else 0.0
        rate = options.rate * options.layer_decay ** max(layers - depth, 0)
        groups.append({"params": [parameter], "lr": rate, "weight_decay": decay})
    return groups


def report(model: torch.nn.Module, tokenizer, aside: list[Example]) -> dict:
    """Scores on what was set aside, headlines and tweets apart."""
    answers = probabilities(model, tokenizer, [example.text for example in aside])
    result = {}
    for name, tweet in (("headlines", False), ("tweets", True)):
        rows = [index for index, example in enumerate(aside) if example.tweet == tweet]
        scored = summary([aside[index].label for index in rows], answers[rows])
        result[name] = {"macro_f1": scored["macro_f1"], "accuracy": scored["accuracy"]}
    return result


def train(options: argparse.Namespace) -> None:
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    dice = random.Random(options.seed)

    examples = training_texts(options.data)
    # The vocabulary depends on all training texts, so that it is the same with and without a part set aside.
    tokenizer, kept = vocabulary.pruned(vocabulary.base_tokenizer(base_folder()), [example.text for example in examples])
    examples, aside = split(examples, options.holdout, seed=20) if options.holdout else (examples, [])
    model = from_base(base_folder(), kept)
    words = model.bert.embeddings.word_embeddings
    words.weight.requires_grad_(not options.fixed_words)
    words.sparse = not options.fixed_words
    groups = parameter_groups(model, options)
    dense = [parameter for group in groups for parameter in group["params"]]
    optimisers = [torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)]
    if not options.fixed_words:
        # Only the rows of the words in the batch move.
        rate = options.rate * options.layer_decay ** (model.config.num_hidden_layers + 1)
        optimisers.append(torch.optim.SparseAdam([words.weight], lr=rate, betas=(0.9, 0.98)))
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    rates = [group["lr"] for group in groups]
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    average = {name: parameter.detach().clone() for name, parameter in trained.items()}

    steps_of_epoch = -(-len(examples) // options.batch)
    steps = steps_of_epoch * options.epochs
    rounded_from = round(steps * (1 - options.rounded))
    rounding, step, started, losses = [], 0, time.time(), []
    for epoch in range(options.epochs):
        texts = [
            with_made_up_url(example.text, dice) if example.tweet and dice.random() < options.urls else example.text
            for example in examples
        ]
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        model.train()
        for part in batches([len(ids) for ids in tokens], options.batch, dice):
            if step == rounded_from:
                rounding = quantisation.round_activations(model)
            through = step / steps
            factor = min(through / options.warm_up, (1 - through) / (1 - options.warm_up)) if options.warm_up else 1 - through
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * factor
            ids, mask = batch_of([tokens[index] for index in part])
            labels = torch.tensor([examples[index].label for index in part])
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(input_ids=ids, attention_mask=mask).logits
            loss = functional.cross_entropy(logits.float(), labels, label_smoothing=options.smoothing)
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(dense, 1.0)
            for optimiser in optimisers:
                optimiser.step()
            step += 1
            losses.append(loss.item())
            if step % 10 == 0 or step == steps:
                # A short memory at first, so that the average does not remember the random head.
                decay = min(options.average, step / (step + 100))
                with torch.no_grad():
                    for name, parameter in trained.items():
                        average[name].lerp_(parameter, 1 - decay)
            if step % 50 == 0:
                print(f"step {step}/{steps} loss {sum(losses[-50:]) / 50:.4f} {time.time() - started:.0f} s", flush=True)
        if aside:
            print(json.dumps({"epoch": epoch + 1, **report(model, tokenizer, aside)}), flush=True)
    for handle in rounding:
        handle.remove()
    model.load_state_dict(average, strict=False)
    if aside:
        print(json.dumps({"averaged": report(model, tokenizer, aside)}), flush=True)
        texts = [example.text for example in aside]
        exact = probabilities(model, tokenizer, texts)
        rounding = quantisation.round_activations(model)
        differ = int((exact.argmax(-1) != probabilities(model, tokenizer, texts).argmax(-1)).sum())
        for handle in rounding:
            handle.remove()
        print(json.dumps({"labels that differ with 8-bit activations": differ, "of": len(aside)}), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), options.out / "model.pt")
    tokenizer.save(str(options.out / "tokenizer.json"))
    (options.out / "settings.json").write_text(json.dumps(vars(options), default=str, indent=2) + "\n")
    print(f"{steps} steps, {len(kept)} tokens, {time.time() - started:.0f} s")


if __name__ == "__main__":
    train(arguments())
