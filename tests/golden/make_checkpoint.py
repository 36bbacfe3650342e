"""Makes the golden checkpoint of today's format version, once: python tests/golden/make_checkpoint.py

It is a real run's last checkpoint, and beside it in JSON what it must hold. Files of earlier versions are never made
again: they show that what an earlier rnnfast wrote still loads, samples and resumes.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rnnfast import checkpoint
from rnnfast.lm import evaluate_text, fit, load

TEXT = "".join(f"{n} little ducks went swimming one day, over the hills and far away.\n" for n in range(20))

OPTIONS = {
    **{"hidden_size": 6, "num_layers": 2, "embedding_size": 5, "dropout": 0.1, "seed": 1},
    **{"batch_size": 4, "seq_length": 9, "schedule": "plateau", "learning_rate": 0.02},
    **{"max_steps": 30, "eval_every": 10},
}


def main() -> None:
    base = Path(__file__).parent / f"checkpoint_v{checkpoint.FORMAT_VERSION}"
    if base.with_suffix(".safetensors").exists():
        sys.exit(f"{base.with_suffix('.safetensors')} is there already, and must stay as it is")
    with tempfile.TemporaryDirectory() as folder:
        fit(TEXT, out=folder, quiet=True, **OPTIONS)
        path = Path(folder, "last.safetensors")
        arrays, meta = checkpoint.load(path)
        model = load(path)
        expected = {
            "text": TEXT,
            "arrays": {
                name: [a.dtype.str, list(a.shape), hashlib.sha256(a.tobytes()).hexdigest()]
                for name, a in sorted(arrays.items())
            },
            "config": model.config,
            "trainer": meta["trainer"],
            "loss": evaluate_text(model, model.tokenizer.encode(TEXT)),
        }
        base.with_suffix(".json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
        shutil.copy(path, base.with_suffix(".safetensors"))


if __name__ == "__main__":
    main()
