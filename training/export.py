"""Writes the trained classifier in the form in which it ships: one safetensors file with everything inside.

* The big matrices (dense layers and the table of words) are `I8`, with a companion `<name>.scale` (`F32`, one per row):
  `weight[row, column] = i8[row, column] · scale[row]`.
* The tables of positions and token types are `F16`; biases, layer norms and the classifier are `F32`.
* Names are those of Hugging Face's `BertForSequenceClassification`. The metadata hold `config.json`, `tokenizer.json` and
  `notice` as strings.

The same weights give the same bytes. Format: <https://huggingface.co/docs/safetensors>.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy
import torch

import model
import quantisation

NOTICE = """\
headline-sentiment.safetensors: weights derived from all-MiniLM-L6-v2 (sentence-transformers), under the Apache License,
Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0), which derives from MiniLM-L6-H384-uncased (Microsoft, MIT). Changed:
rows of the tables of words and positions were left out, a classification head was added, the weights were fine-tuned and
rounded to 8-bit numbers. Fine-tuned on the training parts of SEntFiN 1.0 (Sinha, Kedas, Kumar, Malo 2022, MIT) and Twitter
Financial News Sentiment (zeroshot, MIT). The vocabulary is a part of the one of BERT (Google, Apache License 2.0)."""


def shipped_tensors(state: dict[str, torch.Tensor]) -> dict[str, numpy.ndarray]:
    """The tensors as they ship, by name."""
    tensors = {}
    for name, tensor in state.items():
        module = name.rpartition(".")[0]
        if name.endswith(".weight") and quantisation.ships_as_int8(module):
            rows, scale = quantisation.rows_as_int8(tensor.float())
            tensors[name], tensors[f"{name}.scale"] = rows.numpy(), scale.numpy()
        elif name.endswith(("position_embeddings.weight", "token_type_embeddings.weight")):
            tensors[name] = tensor.to(torch.float16).numpy()
        elif not name.endswith(("position_ids", "token_type_ids")):
            tensors[name] = tensor.float().numpy()
    return tensors


def safetensors_bytes(tensors: dict[str, numpy.ndarray], metadata: dict[str, str]) -> bytes:
    """The file. Wide numbers come first, so that each tensor lies at a multiple of its width."""
    kinds = {"float32": "F32", "float16": "F16", "int8": "I8"}
    header: dict = {"__metadata__": metadata}
    data = bytearray()
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        tensor = numpy.ascontiguousarray(tensors[name])
        start = len(data)
        data += tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": kinds[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("training/work/model"), help="what train_headline_sentiment.py wrote")
    parser.add_argument("--out", type=Path, default=Path("crates/models/weights/headline-sentiment.safetensors"))
    options = parser.parse_args()
    state = torch.load(options.model / "model.pt", weights_only=True)
    tokenizer = json.loads((options.model / "tokenizer.json").read_text(encoding="utf-8"))
    config = model.config(len(tokenizer["model"]["vocab"])).to_dict()
    metadata = {
        "config.json": json.dumps(config, sort_keys=True),
        "tokenizer.json": json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")),
        "notice": NOTICE,
    }
    content = safetensors_bytes(shipped_tensors(state), metadata)
    options.out.write_bytes(content)
    print(f"{options.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
