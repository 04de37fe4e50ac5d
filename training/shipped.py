"""Reads a shipped file into `transformers`, with nothing but the format's description: what the runtime is compared with."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification


def load(path: Path) -> tuple[BertForSequenceClassification, Tokenizer]:
    """The model in single precision and its tokenizer."""
    tensors = {}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        for name in file.keys():
            if name.endswith(".scale"):
                continue
            tensor = file.get_tensor(name)
            if tensor.dtype == torch.int8:
                tensor = tensor.float() * file.get_tensor(f"{name}.scale")[:, None]
            tensors[name] = tensor.float()
    model = BertForSequenceClassification(BertConfig.from_dict(json.loads(metadata["config.json"])))
    model.load_state_dict(tensors, strict=True)
    model.eval()
    return model, Tokenizer.from_str(metadata["tokenizer.json"])
