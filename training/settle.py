"""Optional last stage: a short training in which the exact and the 8-bit computation of a model are pulled together.

Each batch is computed twice, exactly and with rounded activations (`quantisation.py`); the loss is the cross-entropy of both
plus a multiple of the divergence between them (as R-Drop does for dropout: Liang et al. 2021,
<https://arxiv.org/abs/2106.14448>). No dropout and no bfloat16 here: their noise is greater than what is to be removed.
Prints how many of a part of the *training* headlines get another label with rounded activations, before and after.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import BertForSequenceClassification

import model
import quantisation
from labelled_texts import training_texts


def differing(classifier: torch.nn.Module, tokenizer: Tokenizer, texts: list[str]) -> tuple[int, float]:
    """On how many texts the label differs with rounded activations, and the mean difference of a score."""
    exact = model.probabilities(classifier, tokenizer, texts)
    handles = quantisation.round_activations(classifier)
    rounded = model.probabilities(classifier, tokenizer, texts)
    for handle in handles:
        handle.remove()
    return int((exact.argmax(-1) != rounded.argmax(-1)).sum()), float((exact - rounded).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/sentiment"))
    parser.add_argument("--model", type=Path, default=Path("training/work/model"))
    parser.add_argument("--out", type=Path, default=Path("training/work/settled"))
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-5)
    parser.add_argument("--pull", type=float, default=30.0, help="weight of the divergence")
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    dice = random.Random(options.seed)

    tokenizer = Tokenizer.from_file(str(options.model / "tokenizer.json"))
    classifier = BertForSequenceClassification(model.config(tokenizer.get_vocab_size()))
    classifier.load_state_dict(torch.load(options.model / "model.pt", weights_only=True))
    # From here on with the weights as they will ship.
    with torch.no_grad():
        for name, module in classifier.named_modules():
            if quantisation.ships_as_int8(name):
                rows, scale = quantisation.rows_as_int8(module.weight)
                module.weight.copy_(rows.float() * scale[:, None])
    classifier.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    classifier.eval()
    examples = training_texts(options.data)
    probe = [example.text for example in examples if not example.tweet][::16]
    print("before", differing(classifier, tokenizer, probe), "of", len(probe), flush=True)

    trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=options.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    started = time.time()
    for step in range(options.steps):
        for group in optimiser.param_groups:
            group["lr"] = options.rate * min((step + 1) / 10, 1 - step / options.steps)
        part = dice.sample(examples, options.batch)
        ids, mask = model.batch_of([encoding.ids for encoding in tokenizer.encode_batch([example.text for example in part])])
        labels = torch.tensor([example.label for example in part])
        exact = classifier(input_ids=ids, attention_mask=mask).logits
        handles = quantisation.round_activations(classifier)
        rounded = classifier(input_ids=ids, attention_mask=mask).logits
        for handle in handles:
            handle.remove()
        fit = sum(functional.cross_entropy(logits, labels, label_smoothing=0.05) for logits in (exact, rounded)) / 2
        left, right = exact.log_softmax(-1), rounded.log_softmax(-1)
        apart = ((left.exp() - right.exp()) * (left - right)).sum(-1).mean()
        classifier.zero_grad(set_to_none=True)
        (fit + options.pull * apart).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        if step % 10 == 9:
            print(f"step {step + 1} fit {fit.item():.4f} apart {apart.item():.6f} {time.time() - started:.0f} s", flush=True)
    print("after", differing(classifier, tokenizer, probe), "of", len(probe), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(classifier.state_dict(), options.out / "model.pt")
    tokenizer.save(str(options.out / "tokenizer.json"))


if __name__ == "__main__":
    main()
