"""A tiny BERT with random weights as PyTorch exports it, both batch and tokens open, and what ONNX Runtime says of four texts.

    python make_bert.py        needs torch, transformers, tokenizers, onnxruntime; reads text/tokenizer.json
"""

import json
import pathlib

import numpy as np
import onnxruntime
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

HERE = pathlib.Path(__file__).parent / "text"
torch.manual_seed(7)
config = BertConfig(
    vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=16, num_labels=3, attn_implementation="eager", initializer_range=0.5,
)
model = BertForSequenceClassification(config).eval()
names = ["input_ids", "attention_mask", "token_type_ids"]
ids = torch.ones(2, 8, dtype=torch.long)
axes = {name: {0: "batch", 1: "tokens"} for name in names} | {"logits": {0: "batch"}}
torch.onnx.export(
    model, (ids, ids, ids * 0), str(HERE / "bert.onnx"), input_names=names, output_names=["logits"],
    dynamic_axes=axes, opset_version=17, dynamo=False,
)
assert (HERE / "bert.onnx").stat().st_size < 60_000
lines = ["profit of the bank rises", "loss", "", "Shares of the unheard-of bank falls"]
session = onnxruntime.InferenceSession(str(HERE / "bert.onnx"), providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
outputs = []
for line in lines:  # One by one: no padding in the reference.
    encoding = tokenizer.encode(line)
    feeds = dict(zip(names, [encoding.ids, encoding.attention_mask, encoding.type_ids]))
    outputs.append(session.run(None, {k: np.array([v], np.int64) for k, v in feeds.items()})[0][0].tolist())
(HERE / "bert.json").write_text(json.dumps({"texts": lines, "outputs": outputs}, indent=1) + "\n")
