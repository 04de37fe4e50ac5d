"""Writes what `transformers` answers with the shipped weights: token ids and probabilities for texts of every kind.

`crates/models/testdata/headline-sentiment-reference.json` is compared with the runtime's answers by a test. The texts are
written for this purpose.
"""

import argparse
import hashlib
import json
from pathlib import Path

import torch

import shipped
from labelled_texts import LABELS
from model import probabilities

LONG = (
    "The bank said that its profit for the quarter rose, although margins in the retail business fell and the costs of "
    "the new branches weighed on the result; analysts had expected less, and the shares gained. "
)

TEXTS = [
    "Harbour Bank beats profit forecast as loan losses shrink",
    "Northwind Airlines warns of deeper loss, cuts 4,000 jobs",
    "Kestrel Foods to hold annual meeting on 12 May",
    "Oil slides 3% after surprise build in US stockpiles",
    "Copper hits record high on supply fears",
    "Rupee ends flat at 83.12 against the dollar",
    "Brokerage upgrades Lumen Steel to 'buy', raises target to Rs 640",
    "Moody's cuts Port Authority of Sel to junk",
    "Regulator fines Ardent Insurance $45 million over mis-selling",
    "Tern Pharma wins approval for heart drug",
    "Tern Pharma fails to win approval for heart drug",
    "Shares of Alder & Co not expected to fall further, says analyst",
    "Rowan Motors up 6%, Birch Motors down 8% as quarterly sales diverge",
    "$ROWN - Rowan Motors gains on guidance https://example.com/a1B2c3",
    "What to watch on Wall Street today",
    "CEO of Quill Software steps down after accounting probe",
    "Dividend held at 12 cents a share",
    "EBITDA margin 18.4% vs 17.9% (YoY), net debt €1.2bn → €0.9bn",
    "MERGER TALKS BETWEEN FERN AND HOLLY COLLAPSE",
    "wheat futures little changed ahead of crop report",
    "",
    " ",
    "?",
    "🚀🚀🚀 Larch Mobility to the moon 🌕",
    "利润大增，股价创历史新高",
    "東京株式市場、小幅に反発",
    "Компания сообщила о рекордной прибыли",
    "أرباح الشركة ترتفع",
    "Gewinn der Müller AG bricht um 40 Prozent ein",
    "Société Générale relève ses prévisions",
    "Profit\u0000 warning\u0007 from\u001b[31m Elm\u200b Retail\ufeff",
    "tabs\tand\r\nline breaks\nin a headline about higher sales",
    "naïve café façade coöperate ÅNGSTRÖM ﬁne ½ ² ①",
    "e\u0301 decomposed accents: re\u0301sultat en hausse",
    "[CLS] a headline with [MASK] special [SEP] tokens [UNK] inside [PAD]",
    "a" * 150,
    "supercalifragilisticexpialidocious shareholdings antidisestablishmentarianism",
    "1234567890 0.00001 -17% +3.5% $1,000,000.00 £5 ¥600 ₹70",
    "!!!??? ... --- *** ### @@@ &&& ((( ))) ;;; ::: ''' \"\"\"",
    LONG * 40,
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("crates/models/weights/headline-sentiment.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("crates/models/testdata/headline-sentiment-reference.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = shipped.load(options.file)
    # One by one: no padding, so that nothing depends on the other texts.
    entries = [
        {
            "text": text,
            "ids": tokenizer.encode(text).ids,
            "probabilities": [float(f"{value:.8g}") for value in probabilities(model, tokenizer, [text])[0].tolist()],
        }
        for text in TEXTS
    ]
    lines = ",\n".join("    " + json.dumps(entry, ensure_ascii=True) for entry in entries)
    digest = hashlib.sha256(options.file.read_bytes()).hexdigest()
    options.out.write_text(f'{{\n  "weights_sha256": "{digest}",\n  "labels": {json.dumps(LABELS)},\n  "texts": [\n{lines}\n  ]\n}}\n')
    print(f"{options.out}: {len(entries)} texts")


if __name__ == "__main__":
    main()
